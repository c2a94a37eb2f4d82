"""The commands of `docs/photographs.md` lead from a table to a promoted model, with fewer pictures and epochs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.photographs import photograph
from benchmarks.pictures import SCENES
from tests.support.bounds import JOB_SECONDS
from tests.support.documents import ROOT, blocks

PAGE = "docs/photographs.md"
SHORTER = {
    "jobs.train": "--epochs=4 --model-arg=min_side=32",
    "jobs.search": "--epochs=3 --trials=2 --model-arg=min_side=32 --final-seeds=1 --validation-percent=20",
}


def write_plants(folder: Path, per_class: int = 20) -> None:
    """Write photographs with a table of labels, and unsorted ones beside it."""
    random = np.random.default_rng(0)
    rows = ["file_name,label,group"]
    for label, name in enumerate([*SCENES][:3]):
        for number in range(per_class):
            path = folder / "plants" / f"{name}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(label, False, random).save(path)
            rows.append(f"{path.name},{name},plant-{name}-{number // 2}")
    (folder / "plants/metadata.csv").write_text("\n".join(rows) + "\n")
    (folder / "new").mkdir()
    photograph(0, True, random).save(folder / "new/fresh.png")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_page_leads_from_a_table_to_a_promoted_model(tmp_path: Path) -> None:
    write_plants(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

    def run(line: str) -> str:
        line, _, target = line.partition(" > ")
        # There is no network connection here: the weights are random, of the same network.
        words = [word.replace("weights='imagenet'", "weights=None") for word in shlex.split(line)]
        shorter = next((flags for name, flags in SHORTER.items() if name in words), "")
        if "--trials" in words:
            del words[words.index("--trials") :][:2]
        command = [sys.executable, *words[1:], *shorter.split()]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if target:
            (tmp_path / target).write_text(done.stdout)
        return done.stdout + done.stderr

    lines = [line for block in blocks("sh") if block.document == PAGE for line in block.text.splitlines()]
    printed = {line: run(line) for line in lines}
    (trained,) = [text for line, text in printed.items() if "jobs.train" in line]
    assert "model keras-mobilenet: weights backbone from imagenet.weights.h5, sha256 " in trained
    assert "freezes nothing" not in trained
    summaries = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("**/summary.json"))]
    specs = [trial["spec"] for summary in summaries for trial in summary["trials"]]
    assert {(*spec["weights"], spec["model"]) for spec in specs} == {("backbone", "keras-mobilenet")}
    assert specs[0]["freeze_epochs"] == 1
    assert specs[0]["learning_rate"] == pytest.approx(0.0009)
    assert (tmp_path / "classes.png").exists()
    assert (tmp_path / "augmented.png").exists()
    assert "keras-mobilenet@2" in printed["python -m jobs.models promote keras-mobilenet@2 --always"]
    assert (tmp_path / "answers.csv").read_text().splitlines()[1].startswith("new/fresh.png")
    assert (tmp_path / "mine.weights.h5").stat().st_size > 3e6
