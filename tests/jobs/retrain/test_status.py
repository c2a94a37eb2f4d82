"""What `jobs.retrain status` prints."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from jobs.retrain.__main__ import main
from jobs.retrain.journal import DataOfRun, Entry, Journal, ModelResult
from jobs.retrain.status import events_of, text_of_entry
from mnist_lib.data.request import Growth
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy
from mnist_lib.store.opening import open_run

SLOT = "2026-11-21T02:00:00Z"
RUN = "nightly-2026-11-21T02-00-00Z"
ENTRIES = [
    Entry("enrolled", "2026-11-20T01:00:00Z", "2026-11-20T01:00:00Z", "node-a"),
    Entry("started", SLOT, SLOT, "node-a", run=RUN, begun=SLOT, attempt=1),
    Entry(
        "interrupted",
        SLOT,
        "2026-11-21T02:10:00Z",
        "node-a",
        run=RUN,
        begun=SLOT,
        attempt=1,
        failures=1,
        exit_code=6,
        why="error[E-STORE] /srv/digits/results/of-this-machine: no space is left; delete something",
    ),
    Entry("started", SLOT, "2026-11-21T02:10:20Z", "node-a", run=RUN, begun=SLOT, attempt=2, failures=1),
    Entry(
        "done",
        SLOT,
        "2026-11-21T03:30:00Z",
        "node-a",
        run=RUN,
        begun=SLOT,
        attempt=2,
        missed=2,
        results={"keras": ModelResult(version=3, test_accuracy=0.97134, champion=True, why="the first champion")},
    ),
]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    journal = Journal(LocalObjects(tmp_path), "nightly")
    for number, entry in enumerate(ENTRIES):
        assert journal.append(number, entry)
    return tmp_path


@pytest.mark.parametrize("error", ["error[E-STORE] no space is left", "error[E-MODEL] a mistake"])
def test_the_status_of_a_failed_run_has_the_command_that_resumes_it_unless_it_would_fail_again(
    error: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jobs.search")
    failed = replace(ENTRIES[-1], kind="failed", exit_code=6, why=error, results={})
    assert Journal(LocalObjects(storage), "nightly").append(len(ENTRIES), failed)
    command = f"python -m jobs.search \\\n  --run-name={RUN} \\\n  --vary=epochs=1..3 \\\n  --storage={storage}\n"
    storage_of_run, vary = LocalObjects(storage), "{vary: {epochs: 1..3}}"
    with open_run(storage_of_run, RUN, dataset="x", terms={}, configuration=vary, command="jobs.search") as folder:
        for is_printed in ("E-STORE" in error, False):
            assert main(["status", f"--storage={storage}"]) == 0
            assert capsys.readouterr().out.endswith(f"\n\nTo resume {RUN}:\n{command}") == is_printed
            folder.write("config.yaml", b"epochs: damaged")


def test_each_slot_is_one_line_without_broken_words_in_a_pipe(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["status", f"--storage={storage}", "--tz=Europe/Berlin"]) == 0
    output = capsys.readouterr().out
    words = {"2026-11-21", "CET", "attempt", "keras@3", "97.13%", "champion", "earlier", "missed"}
    words |= {"interrupted", "/srv/digits/results/of-this-machine"}
    assert words <= set(re.split(r"[\s;:,]+", output))
    assert not any(line.endswith(" ") for line in output.splitlines())
    assert sum(line.startswith("2026-11-21") for line in output.splitlines()) == output.count("2026-11-21 ")


def test_w16_status_and_notice_name_an_unusual_class_and_a_fall_of_accuracy(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    data = DataOfRun(name="digits", since="r0", added=103, unusual={"7": Growth(added=100, usual=2.5)})
    row, before = ENTRIES[-1].results["keras"], Accuracy(190, 200)
    fell = structs.replace(row, new_test=Accuracy(8, 20), new_test_accuracy=0.4, new_test_before=before)
    entry = replace(ENTRIES[-1], data=data, results={"keras": fell})
    assert Journal(LocalObjects(storage), "nightly").append(len(ENTRIES), entry)
    assert main(["status", f"--storage={storage}"]) == 0
    for text in (capsys.readouterr().out, text_of_entry(entry, "nightly")):
        assert "103 images added since r0, unusual: 100 images added to class 7, where 2.5 a run are usual" in text
        assert "40.00% on 20 new pictures, a fall from 95.00% in earlier runs" in text


def test_status_names_the_run_in_progress_and_its_host(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = Entry("started", "2026-11-22T02:00:00Z", "2026-11-22T02:00:00Z", "node-b", run="r", begun=SLOT, attempt=1)
    assert Journal(LocalObjects(storage), "nightly").append(len(ENTRIES), started)
    assert main(["status", f"--storage={storage}"]) == 0
    assert "nightly: run r has been in progress since 2026-11-21 02:00 UTC (node-b" in capsys.readouterr().out


def test_a_schedule_without_entries_is_reported_as_not_started(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", f"--storage={storage}", "--name=weekly"]) == 0
    assert capsys.readouterr().out.startswith("schedule weekly has not been started")


def test_a_run_of_which_one_model_is_refused_is_a_promotion_and_a_rejection() -> None:
    row = ENTRIES[-1].results["keras"]
    models = {"keras": row, "scratch": structs.replace(row, champion=False)}
    entry = replace(ENTRIES[-1], exit_code=0, results=models)
    assert events_of(entry) == ["success", "promotion", "rejection"]
