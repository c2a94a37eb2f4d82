"""What a run stores and where, even if its driver dies while storing."""

import json
import sys
from pathlib import Path

import pytest

from jobs.models import __main__ as models
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import open_storage
from tests.support.job import TRAINING, end_of, start, train
from tests.support.store.invariants import all_verified
from tests.support.store.mounts import require_namespaces, run_with_mount
from tests.support.untrained import UNTRAINED

pytestmark = pytest.mark.slow


def test_a_submitted_job_must_store_outside_its_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # as Ray does for a submitted job
    code, _, stderr = train(home=tmp_path)
    assert code == 2
    assert "storage: expected an absolute path" in stderr


@pytest.mark.long
def test_a_run_whose_output_is_lost_stores_its_result(ray_address: str, data_dir: Path, tmp_path: Path) -> None:
    command = (
        "--address",
        ray_address,
        "--data-dir",
        data_dir,
        "--models=keras",
        "--storage",
        tmp_path,
        *TRAINING,
        "--epochs=2",
    )
    full = "import os; full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1); os.dup2(full, 2)"
    assert train(*command, home=tmp_path, prelude=f"{full}\n{UNTRAINED}", PYTHONUNBUFFERED="") == (74, "", "")
    assert all_verified(LocalObjects(tmp_path)) == [1]
    code, stdout, _ = train(*command, home=tmp_path)  # prints the result of the complete run
    assert (code, json.loads(stdout)["models"]["keras"]["version"]) == (0, 1)


@pytest.mark.long
def test_s6_a_disk_that_is_full_at_a_checkpoint_ends_the_run_with_exit_code_6(data_dir: Path, tmp_path: Path) -> None:
    require_namespaces()
    storage = tmp_path / "storage"
    storage.mkdir()
    at = ("--data-dir", data_dir, "--storage", storage, *TRAINING, "--models=keras", "--epochs=2")
    kept = tmp_path / "kept"
    script = f'"$@"; code=$?; cp -r {storage} {kept}; exit $code'
    command = ("sh", "-c", script, "sh", sys.executable, "-m", "jobs.train", *at)
    done = run_with_mount(f"mount -t tmpfs -o size=1m none {storage}", *command)
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error[E-STORE-FULL] ")
    assert "Traceback" not in done.stderr
    stored = [path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()]
    assert "runs/r/run.json" in stored
    assert not [path for path in stored if "checkpoints/" in path or "/." in path]  # nothing incomplete is left


@pytest.mark.long
def test_u8_of_two_drivers_of_one_run_in_a_bucket_one_stores_the_model_and_the_other_gives_exit_code_75(
    ray_address: str, data_dir: Path, tmp_path: Path, s3: str
) -> None:
    command = ("--address", ray_address, "--data-dir", data_dir, "--storage", s3, *TRAINING, "--models=scratch")
    drivers = [start(*command, home=tmp_path, prelude=UNTRAINED) for _ in range(2)]
    ends = [end_of(driver) for driver in drivers]
    assert sorted(code for code, *_ in ends) == [0, 75], ends
    (refused,) = [stderr for code, _, stderr in ends if code == 75]
    assert refused.splitlines()[-1].startswith("error[E-")
    assert all_verified(open_storage(s3), "scratch") == [1]


@pytest.mark.long
def test_i12_a_run_in_a_bucket_is_complete_and_reveals_no_secret(
    ray_address: str, data_dir: Path, tmp_path: Path, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = train(
        *("--address", ray_address, "--data-dir", data_dir, "--dataset=sklearn-digits", "--models=keras", "--epochs=2"),
        *("--storage", s3, "--run-name=nightly", "--verbose", "--allow-cpu"),
        home=tmp_path,
    )
    assert code == 0, stderr
    for message in ("360 test images of sklearn-digits", "keras-s0", "95% interval"):
        assert message in stdout
    assert f"Run: {s3}/runs/nightly" in stdout
    assert f"keras@1 (trial keras-s0): {s3}/models/keras/versions/1" in stdout
    objects = open_storage(s3)
    names = list(objects.names(""))
    for name in ("config.yaml", "history/00000001.jsonl", "summary.json", "trials/keras-s0/result.json", "report.html"):
        assert f"runs/nightly/{name}" in names
    assert "index.html" in names
    history = objects.read("runs/nightly/history/00000001.jsonl") or b""
    events = [json.loads(line)["event"] for line in history.splitlines()]
    assert events == ["driver", "lanes", "started", "epoch", "epoch", "ended"]
    manifest = json.loads(objects.read("models/keras/versions/1/manifest.json") or b"")
    assert [epoch["epoch"] for epoch in manifest["history"]] == [1, 2]
    assert set(manifest["code"]) >= {"sha256"}
    assert models.main(["verify", "--all", "--storage", s3]) == 0
    assert models.main(["champion", "--storage", s3]) == 0
    printed = stdout + stderr + "".join(capsys.readouterr())
    assert "keras@1, champion of sklearn-digits since" in printed
    assert "canary" not in printed
    assert not [name for name in names if b"canary" in (objects.read(name) or b"")]
