"""Which growth of a class, and which fall of accuracy, is called unusual."""

import math
from pathlib import Path

import pytest

from mnist_lib.data.changes import fall, growth, tail
from mnist_lib.data.request import CountsBySplit, Growth
from mnist_lib.objects.local import LocalObjects
from mnist_lib.report.texts import data_warnings
from mnist_lib.results import Accuracy
from mnist_lib.store.datasets import earlier_runs
from mnist_lib.store.runs import RunFolder
from tests.support.store.summaries import small_model, small_summary, summary_of


def added(**counts: int) -> CountsBySplit:
    train = {name: count - count // 5 for name, count in counts.items()}
    return {"train": train, "test": {name: count // 5 for name, count in counts.items()}}


@pytest.mark.parametrize(("count", "trials", "share"), [(3, 5, 0.25), (9, 12, 0.5), (40, 130, 1 / 31), (1, 1, 0.1)])
def test_the_tail_is_the_sum_of_the_binomial_distribution(count: int, trials: int, share: float) -> None:
    terms = (math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(count, trials + 1))
    assert tail(count, trials, share) == pytest.approx(sum(terms))


def test_the_tail_of_many_images_is_found_at_once() -> None:
    assert 0 < tail(1_000_000, 30_000_000, 1 / 31) < 1e-6
    assert tail(10**7, 10**7 + 10, 1 / 31) == 0


def test_w16_a_night_in_which_100_pictures_come_into_a_wrong_class_names_the_class() -> None:
    nights = [added(a=2 + night % 3, b=3) for night in range(30)]
    assert growth(added(a=3, b=103), nights) == {"b": Growth(added=103, usual=3.0)}
    assert growth(added(a=9, b=7), nights) == {}
    assert growth(added(c=20), nights) == {"c": Growth(added=20, usual=0.0)}  # no night had a picture of this class
    assert growth(added(c=19), nights) == {}
    assert growth(added(a=30), [added(a=10)] * 3) == {}  # three times as many
    assert growth(added(a=31), [added(a=10)] * 3) == {"a": Growth(added=31, usual=10.0)}
    assert growth(added(a=500), []) == {}  # nothing is known about what is usual
    assert growth(added(a=100), [added(a=3), added()]).keys() == {"a"}


def test_w16_a_fall_of_the_accuracy_on_new_pictures_is_found() -> None:
    nights = [Accuracy(19, 20)] * 10
    assert fall(Accuracy(8, 20), nights) == Accuracy(190, 200)
    assert fall(Accuracy(18, 20), nights) is None
    assert fall(Accuracy(0, 20), []) is None
    assert fall(Accuracy(20, 20), nights) is None


def test_w16_the_last_runs_of_a_dataset_are_read_up_to_a_damaged_one(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    dataset = small_summary()["dataset"]
    for number in range(5):
        changes = {"since": f"r{number - 1}", "at": "", "removed": {}, "relabelled": {}, "added": added(a=number)}
        fields = {"changes": changes} if number else {}
        summary = summary_of(small_summary(run=f"r{number}", dataset={**dataset, **fields}))
        RunFolder(objects, f"r{number}").complete(summary)
    assert [summary.run for summary in earlier_runs(objects, "r4", 9)] == ["r4", "r3", "r2", "r1", "r0"]
    assert [summary.run for summary in earlier_runs(objects, "r4", 2)] == ["r4", "r3"]
    (tmp_path / "runs/r2/summary.json").write_text("{}")
    assert [summary.run for summary in earlier_runs(objects, "r4", 9)] == ["r4", "r3"]


def test_w16_the_report_names_the_class_and_the_fall() -> None:
    changes = {"since": "r0", "at": "", "removed": {}, "relabelled": {}, "added": added(b=103)}
    dataset = small_summary()["dataset"] | {"changes": {**changes, "unusual": {"b": {"added": 103, "usual": 3.0}}}}
    new = {"new_test": {"correct": 8, "total": 20}, "new_test_accuracy": 0.4}
    model = small_model(**new, new_test_before={"correct": 190, "total": 200})
    texts = data_warnings(summary_of(small_summary(dataset=dataset, models={"keras": model})))
    assert "Unusual: 103 images added to class b, where 3.0 a run are usual; check that they belong there." in texts
    assert "Unusual: keras has 40.00% on 20 new pictures, a fall from 95.00% in earlier runs." in texts
