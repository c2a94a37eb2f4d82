"""An error in the report or the index never fails a run; the index contains every run with an intact summary."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from jobs.train import reporting
from jobs.train.reporting import pictures_link, update
from mnist_lib.data.dataset import Dataset
from mnist_lib.documents import encode
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import open_storage
from mnist_lib.run_documents import Summary
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.runs import RunFolder
from tests.support.job import ROOT
from tests.support.made_run import made_run


@pytest.fixture(scope="module")
def summary(digits: Dataset) -> Summary:
    return made_run(digits, seeds=1, models=("keras",)).summary


def is_in_index(objects: LocalObjects, run: str) -> bool:
    return f">{run}<" in (objects.read("index.html") or b"").decode()


def complete(objects: LocalObjects, summary: Summary, run: str) -> None:
    objects.replace(f"runs/{run}/summary.json", encode(structs.replace(summary, run=run)))


def test_the_index_contains_a_run_that_completes_while_it_is_written(summary: Summary, tmp_path: Path) -> None:
    class Busy(LocalObjects):
        def replace(self, name: str, content: bytes) -> None:
            if name == "index.html" and not self.exists("runs/b/summary.json"):
                complete(objects, summary, "b")  # by another driver, whose index is now overwritten
            super().replace(name, content)

    objects = LocalObjects(tmp_path)
    complete(objects, summary, "a")
    update(Busy(tmp_path), "a")
    assert is_in_index(objects, "a")
    assert is_in_index(objects, "b")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"run": "odd", "models": {"keras": {}}, "trials": []}'])
def test_the_index_leaves_out_a_damaged_summary_and_names_its_run(
    summary: Summary, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    objects = LocalObjects(tmp_path)
    complete(objects, summary, "complete")
    objects.replace("runs/odd/summary.json", content)
    with caplog.at_level(logging.WARNING):
        update(objects, "complete")
    assert is_in_index(objects, "complete")
    assert not is_in_index(objects, "odd")
    assert "leaves out run odd" in caplog.text


@pytest.mark.slow
def test_the_report_separates_options_that_differ_from_their_defaults(digits: Dataset, tmp_path: Path) -> None:
    folder, run = RunFolder(LocalObjects(tmp_path), "a"), made_run(digits, seeds=3)
    folder.write(
        "config.yaml",
        b"dataset: mnist-mini\nmodels:\n- keras\n- scratch\nseeds: 3\nallow_cpu: true\nreport: true\n"
        b"precision: float32\n",
    )
    reporting.add(folder, run.summary, run.tallies, lambda: digits, run.code)
    page = (tmp_path / "runs/a/report.html").read_text()
    assert re.findall(r"<code>(--[^<]*)</code>", page) == [
        *("--seeds=3", "--allow-cpu"),
        *("--dataset=mnist-mini", "--models=keras,scratch", "--report", "--precision=float32"),
    ]
    assert (tmp_path / "runs/a/plots/accuracy.png").exists()


@pytest.mark.parametrize(
    ("storage", "dataset", "link"),
    [
        ("work/results", "work/my letters", "../../../my%20letters"),
        ("work/results", "other/letters", "../../../../other/letters"),
        ("work/results", "s3://bucket/letters", None),
        ("work/results", "mnist-mini", None),
        ("work/results", "tfds:cmaterdb/x", None),
        ("memory://storage", "work/letters", None),
    ],
)
def test_a_report_links_to_pictures_only_if_both_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, dataset: str, link: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(open_storage(storage), "r")
    assert pictures_link(folder.where, dataset) == link


@pytest.mark.parametrize("damaged", [False, True])
def test_the_index_shows_no_current_champion_if_the_newest_record_is_damaged(
    summary: Summary, tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[Champion | IntegrityError] = [
        Champion("keras", "mnist", number, number, "2026-11-25T03:00:00Z", "promote", "better", "a", None)
        for number in (1, 2)
    ]
    records += [IntegrityError("damaged")] if damaged else []
    monkeypatch.setattr("mnist_lib.report.index.history", lambda *_: records)
    monkeypatch.setattr("mnist_lib.report.index.datasets_with_logs", lambda _, model: ["mnist"] * (model == "keras"))
    objects = LocalObjects(tmp_path)
    complete(objects, summary, "a")
    update(objects, "a")
    current, _, history = (tmp_path / "index.html").read_text().partition("<h2>Champion history</h2>")
    assert ("keras@2" in current) == (not damaged)
    assert "keras@1" not in current
    assert re.findall(r"keras@\d", history) == ["keras@2", "keras@1"]
    assert history.count(">unknown<") == 2  # the accuracies of two versions that are not stored


def test_without_matplotlib_a_warning_is_given_and_no_index_is_written(summary: Summary, tmp_path: Path) -> None:
    complete(LocalObjects(tmp_path), summary, "a")
    script = (
        "import logging, sys; sys.modules['matplotlib'] = None; logging.basicConfig(format='%(message)s');"
        f"from jobs.train.reporting import update; from mnist_lib.objects.local import LocalObjects;"
        f"from pathlib import Path; update(LocalObjects(Path({str(tmp_path)!r})), 'a')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("the index could not be written (ModuleNotFoundError")
    assert not (tmp_path / "index.html").exists()


def test_a_log_of_champions_that_has_no_record_yet_does_not_end_the_index(tmp_path: Path) -> None:
    """A process was killed after it had made the folder."""
    (tmp_path / "models/keras/champions/mnist").mkdir(parents=True)
    update(LocalObjects(tmp_path), "none")
    assert "No model has a champion." in (tmp_path / "index.html").read_text()
