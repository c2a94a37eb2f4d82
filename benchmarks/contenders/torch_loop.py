"""The networks of `keras` and `keras-cnn` in PyTorch with the usual loop, eager or with `torch.compile`."""

import sys

import numpy as np
import torch
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits, measure

optimizer_name, threads, compiled, network = sys.argv[3], int(sys.argv[4]), sys.argv[5] == "compile", sys.argv[6]
torch.set_num_threads(threads)
torch.manual_seed(0)
data = digits()
images, test_images = (
    torch.from_numpy(part.transpose(0, 3, 1, 2).astype("float32") / 255)
    for part in (data.train_images, data.test_images)
)
labels = torch.from_numpy(data.train_labels.astype("int64"))
if network == "keras-cnn":
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 24, 5, bias=False),
        torch.nn.MaxPool2d(2),
        torch.nn.BatchNorm2d(24),
        torch.nn.ReLU(),
        torch.nn.Conv2d(24, 32, 3, bias=False),
        torch.nn.MaxPool2d(2),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(800, 256, bias=False),
        torch.nn.BatchNorm1d(256),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(256, CLASSES),
    ).to(memory_format=torch.channels_last)
else:
    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(images[0].numel(), HIDDEN_UNITS),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN_UNITS, CLASSES),
    )
if optimizer_name == "rmsprop":
    optimizer: torch.optim.Optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-7)
elif optimizer_name == "adam":
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
else:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Move each image by at most one pixel along each axis for `keras-cnn`, as `RandomShift(1)` does."""
    if network != "keras-cnn":
        return images
    rows, columns = torch.randint(0, 3, (2, len(images), 1)) + torch.arange(28)
    numbers = torch.arange(len(images))[:, None, None]
    padded = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1))
    return padded[numbers, rows[:, :, None], columns[:, None, :]][:, None].to(memory_format=torch.channels_last)


def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(images), labels)


if compiled:
    loss = torch.compile(loss)


def train_epoch(epoch: int) -> None:
    model.train()
    order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(images)))
    for batch in order.split(BATCH_SIZE):
        optimizer.zero_grad()
        loss(augmented(images[batch]), labels[batch]).backward()
        optimizer.step()


def correct() -> int:
    model.eval()
    with torch.no_grad():
        return int((model(test_images).argmax(dim=1).numpy() == data.test_labels).sum())


measure(train_epoch, correct)
