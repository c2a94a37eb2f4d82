"""A trial of a benchmark in this process, without Ray."""

from mnist_lib.data.dataset import Dataset
from mnist_lib.model_file import ModelFile
from mnist_lib.models.pretrained import NOTHING, Pretrained
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources


def train_trial(
    spec: TrialSpec,
    dataset: Dataset,
    resources: Resources,
    pretrained: Pretrained = NOTHING,
    source: ModelFile | None = None,
) -> TrialResult:
    """Train a trial. Raises SystemExit if it fails.

    Args:
        resources: of this process, which takes its number of threads only once.
        source: the file that defines the model, unless it is in the catalog.
    """
    from mnist_lib.training.trial import WorkerPlace, run_trials  # loads TensorFlow

    place = WorkerPlace(node="here")
    resources = resources.in_this_process(spec)
    *_, result = run_trials(
        [Assignment(spec, source=source)], lambda: dataset, resources, place, pretrained=lambda: pretrained
    )
    if not isinstance(result, TrialResult):
        raise SystemExit(f"{result}")
    return result
