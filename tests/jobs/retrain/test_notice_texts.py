"""What notices say: a first sentence, what is new in the data, the reason and the next command."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from jobs.retrain.journal import DataOfRun, Entry, ModelResult
from jobs.retrain.status import notice_of
from mnist_lib.data.request import Growth
from mnist_lib.results import Accuracy

DONE = Entry(
    "done",
    "2026-01-05T03:00:00Z",
    "2026-01-05T03:10:00Z",
    "host",
    run="nightly-2026-01-05T03-00-00Z",
    begun="2026-01-05T03:00:00Z",
    attempt=1,
    missed=2,
    exit_code=0,
    results={"keras": ModelResult(version=3, test_accuracy=0.97134, champion=False, why="keras@2 is better")},
)


def test_the_text_of_a_notice_gives_its_slot_the_accuracy_and_the_reason() -> None:
    assert notice_of(DONE, "nightly", "results", "jobs.train")["text"] == (
        "nightly: no new champion. Slot 2026-01-05T03:00:00Z: done; 2 earlier slots missed; keras@3 has 97.13% test"
        " accuracy and is not the champion (keras@2 is better)."
    )
    row = structs.replace(DONE.results["keras"], trials=3, mean_test_accuracy=0.97, ci95=(0.96, 0.98))
    text = notice_of(replace(DONE, results={"keras": row}), "nightly", "results", "jobs.train")["text"]
    assert "has 97.13% test accuracy (mean of 3 trials 97.00%, 96.00% to 98.00%) and" in text
    balanced = structs.replace(DONE.results["keras"], balanced_accuracy=0.6125)
    text = notice_of(replace(DONE, results={"keras": balanced}), "nightly", "results", "jobs.train")["text"]
    assert "has 97.13% test accuracy, balanced 61.25% and is" in text


def test_a_notice_says_what_is_new_in_the_data_and_the_accuracy_on_new_pictures() -> None:
    row = structs.replace(DONE.results["keras"], new_test=Accuracy(3, 4), new_test_accuracy=0.75)
    counts: Any = {"added": 1_200, "removed": 0, "relabelled": 1, "corrected": 7, "disputed_holdout": 2}
    data = DataOfRun(name="digits", since="nightly-2026-01-04T03-00-00Z", **counts)
    entry = replace(DONE, results={"keras": row}, data=data)
    notice = notice_of(entry, "nightly", "results", "jobs.train")
    assert notice["data"] == {"name": "digits", "since": data.since, **counts}
    assert (
        "digits: 1,200 images added, 1 image relabelled since nightly-2026-01-04T03-00-00Z, 7 labels corrected, 2 of"
        " the test because a model disputed them; keras@3 has 97.13% test accuracy, 75.00% on 4 new pictures and is"
        " not the champion (keras@2 is better)"
    ) in notice["text"]
    unchanged = replace(DONE, data=DataOfRun(name="digits", since="r", added=0, removed=0, relabelled=0))
    assert (
        "; digits: no image has changed since r; " in notice_of(unchanged, "nightly", "results", "jobs.train")["text"]
    )


ACCEPT = "python -m jobs.models accept digits --state 3f452b93d340 --storage results"
GONE = "9 of 9 pictures are gone"
CHANGED = DataOfRun(name="digits", since="r", added=0, removed=9, objections=(GONE,), accept=ACCEPT)


@pytest.mark.parametrize(
    ("fields", "events", "headline"),
    [
        ({}, ["success", "rejection"], "nightly: no new champion."),
        (
            {"data": CHANGED, "exit_code": 10},
            ["rejection", "dataset-changed"],
            "nightly: digits has changed unexpectedly, so no model was promoted.",
        ),
        (
            {"data": DataOfRun(name="digits", newly_damaged=2), "exit_code": 9},
            ["rejection", "damaged"],
            "nightly: 2 pictures cannot be read; no new champion.",
        ),
        ({"exit_code": 9, "failed_trials": 2}, ["failure", "rejection"], "nightly: 2 trials failed; no new champion."),
        (
            {"data": DataOfRun(name="digits", unusual={"5": Growth(added=100, usual=2.0)})},
            ["success", "rejection", "unusual"],
            "nightly: unusually many new images in 5; no new champion.",
        ),
        (
            {"results": {"keras": structs.replace(DONE.results["keras"], champion=True, why="is better")}},
            ["success", "promotion"],
            "nightly: new champion: keras@3, with 97.13%.",
        ),
        (
            {"kind": "failed", "why": "error[E-DATA] labels.jsonl: line 1", "results": {}, "exit_code": 3},
            ["failure"],
            "nightly: failed: E-DATA labels.jsonl: line 1.",
        ),
        ({"kind": "skipped", "why": "too late", "results": {}}, ["skip"], "nightly: a slot was skipped."),
    ],
)
def test_a_notice_begins_with_what_matters_most(fields: dict[str, Any], events: list[str], headline: str) -> None:
    notice = notice_of(replace(DONE, **fields), "nightly", "results", "jobs.train")
    assert notice["events"] == events
    assert notice["text"].startswith(f"{headline} Slot 2026-01-05T03:00:00Z: ")


def test_a_notice_of_a_changed_dataset_says_what_is_gone_once_and_gives_the_command_that_accepts_it() -> None:
    why = f"digits has changed unexpectedly: {GONE}"
    rows = {name: structs.replace(DONE.results["keras"], why=why) for name in ("keras", "scratch")}
    notice = notice_of(replace(DONE, data=CHANGED, results=rows, exit_code=10), "nightly", "results", "jobs.train")
    assert notice["next_command"] == ACCEPT
    assert notice["text"].count(GONE) == 1
    assert notice["text"].count(ACCEPT) == 1


def test_the_notice_of_a_failed_run_has_the_command_that_resumes_it() -> None:
    failed = replace(DONE, kind="failed", exit_code=6, why="error[E-STORE] the storage does not answer", results={})
    command = notice_of(failed, "nightly", "/srv/results", "jobs.search")["next_command"]
    assert command == f"python -m jobs.search --resume {DONE.run} --storage /srv/results"
