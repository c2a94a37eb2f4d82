"""Image classifiers: what a trial is, how it is trained, stored and reported. It does not use Ray.

Import `mnist_lib` to use stored models and runs in a notebook or another program; it loads TensorFlow only in `load`:

    import mnist_lib

    model = mnist_lib.load("keras", storage="results")  # the champion; also keras@latest, keras@3
    print(model.name, model.accuracy.correct, "of", model.accuracy.total, "test images")
    probabilities = model.predict(images)  # images: [n, 28, 28, 1] uint8, 0-255 -> [n, 10] float32
    for run in mnist_lib.runs("results"):  # unfinished runs first, then the newest
        print(run.name, run.dataset, run.ended, run.status, run.models)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_lib.api import Classifier, ModelOfRun, RunRecord, load, read_picture, read_weights, runs

__all__ = ["Classifier", "ModelOfRun", "RunRecord", "load", "read_picture", "read_weights", "runs"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: every worker imports this package, and few need the store."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mnist_lib import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
