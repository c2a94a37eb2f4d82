"""Ray Tune running trials of the same two networks with `keras.fit`, each on one CPU.

With the argument `reuse`, one process runs several trials one after the other, as a lane of this project does.
"""

import contextlib
import sys

from ray import tune
from stopwatch import BATCH_SIZE, CLASSES, HIDDEN_UNITS, digits

epochs, seeds, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
reuse = sys.argv[5:] == ["reuse"]


def trial(config: dict, data: object) -> dict:
    import keras
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # an earlier trial of this process has set it
        tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.utils.set_random_seed(config["seed"])
    from_scratch = config["model"] == "scratch"
    start = keras.initializers.RandomUniform(0, 0.1) if from_scratch else "glorot_uniform"
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(HIDDEN_UNITS, activation="relu", kernel_initializer=start),
            keras.layers.Dense(CLASSES, activation="softmax", kernel_initializer=start),
        ]
    )
    model.compile("sgd" if from_scratch else "rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train_images, data.train_labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    _, accuracy = model.evaluate(data.test_images, data.test_labels, verbose=0)
    return {"accuracy": accuracy}


grid = {"model": tune.grid_search(["keras", "scratch"]), "seed": tune.grid_search(list(range(seeds)))}
trainable = tune.with_resources(tune.with_parameters(trial, data=digits()), {"cpu": 1})
results = tune.Tuner(
    trainable,
    param_space=grid,
    tune_config=tune.TuneConfig(reuse_actors=reuse),
    run_config=tune.RunConfig(storage_path=folder, verbose=0),
).fit()
if results.errors:
    raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")
accuracies = [result.metrics["accuracy"] for result in results if result.metrics["config"]["model"] == "keras"]
print(f"{sum(accuracies) / len(accuracies):.4f}")
