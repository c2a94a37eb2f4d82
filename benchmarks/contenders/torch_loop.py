"""The same network in PyTorch with the usual loop, eager or with `torch.compile`."""

import sys

import numpy as np
import torch
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

optimizer_name, threads, compiled = sys.argv[3], int(sys.argv[4]), sys.argv[5] == "compile"
torch.set_num_threads(threads)
torch.manual_seed(0)
data = digits()
images, test_images = (
    torch.from_numpy(part.reshape(len(part), -1).astype("float32") / 255)
    for part in (data.train_images, data.test_images)
)
labels = torch.from_numpy(data.train_labels.astype("int64"))
model = torch.nn.Sequential(
    torch.nn.Linear(images.shape[1], HIDDEN_UNITS), torch.nn.ReLU(), torch.nn.Linear(HIDDEN_UNITS, CLASSES)
)
if optimizer_name == "rmsprop":
    optimizer: torch.optim.Optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-7)
else:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(images), labels)


if compiled:
    loss = torch.compile(loss)


def train_epoch(epoch: int) -> None:
    order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(images)))
    for batch in order.split(BATCH_SIZE):
        optimizer.zero_grad()
        loss(images[batch], labels[batch]).backward()
        optimizer.step()


measure(train_epoch, lambda: int((model(test_images).argmax(dim=1).numpy() == data.test_labels).sum()))
