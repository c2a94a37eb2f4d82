"""`jobs.submit` with a real Ray head and its job server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.console.exit_codes import UsageError
from jobs.console.options import parse
from jobs.console.output import RESULT_BEGINS, RESULT_ENDS
from jobs.submit.__main__ import SENT, _check, _own_files, main, words_of_job
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan, require_trusted_code
from mnist_lib.errors import IntegrityError, ModelError
from tests.support.bounds import JOB_SECONDS, assert_at_most, wait_until
from tests.support.corrections import correct, correction
from tests.support.job import ROOT, TRAINING, end_of, hashes, pid_of, starts_of
from tests.support.local_cluster import LocalCluster, served_cluster
from tests.support.pictures import classes, noise, write_folder
from tests.support.relay import relay_to


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with served_cluster(tmp_path_factory.mktemp("served")) as cluster:
        yield cluster


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.submit", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(*arguments: str | Path) -> tuple[int, str, str]:
    return end_of(start(*arguments))


def ray_job(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("ray")), "job", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=JOB_SECONDS).stdout


def at(data_dir: Path, storage: Path, *more: str) -> tuple[str | Path, ...]:
    return ("--", *TRAINING[:3], "--json", "--data-dir", data_dir, "--storage", storage, *more)


@pytest.mark.long
@pytest.mark.slow
def test_the_result_of_a_followed_job_is_on_stdout_and_its_log_on_stderr(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    url = f"--address={cluster.dashboard}"
    command = at(data_dir, tmp_path, "--models=scratch", "--run-name=calm")
    code, stdout, stderr = submit(url, *command)
    assert code == 0, stderr
    weights = hashes(stdout)
    assert [*weights] == ["scratch-s0"]
    assert "MB of code" in stderr
    assert "mnist-mini: 4,000 training images" in stderr
    assert (tmp_path / "runs/calm/report.html").exists()  # its templates were uploaded with the code
    assert "succeeded" in ray_job("status", "calm.1", url)
    # Submitting the same again starts another job, which finds the run complete.
    code, stdout, stderr = submit(url, *command)
    assert (code, hashes(stdout)) == (0, weights)
    assert "run calm is complete" in stderr


@pytest.mark.long
@pytest.mark.slow
def test_f18_a_stopped_job_ends_with_exit_code_143_and_resubmitting_resumes_it(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    url = f"--address={cluster.dashboard}"
    command = at(data_dir, tmp_path, "--models=scratch", "--epochs=10000", "--run-name=stopped")
    first = start(url, *command)
    pid_of("scratch-s0", tmp_path / "runs/stopped", epoch=5)
    second = start(url, *command)  # the same submission while the job runs
    assert second.stderr is not None
    assert "run stopped is already in progress, as job stopped.1" in second.stderr.readline()
    begin = time.monotonic()
    assert "was stopped" in ray_job("stop", "stopped.1", url)
    assert_at_most(10, since=begin)
    stdout, stderr = first.communicate(timeout=JOB_SECONDS)
    assert (first.returncode, stdout) == (143, ""), stderr
    assert "terminated; resume with: the same submission" in stderr
    second.communicate(timeout=JOB_SECONDS)
    assert second.returncode == 143
    again = start(url, *command)
    wait_until(lambda: len(starts_of("scratch-s0", tmp_path / "runs/stopped")) == 2, "the run has not been resumed")
    assert starts_of("scratch-s0", tmp_path / "runs/stopped")[1] >= 4
    ray_job("stop", "stopped.2", url)
    _, stderr = again.communicate(timeout=JOB_SECONDS)
    assert "resuming run stopped" in stderr


@pytest.mark.long
@pytest.mark.slow
def test_a_failed_job_ends_with_the_exit_code_of_its_driver(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    missing = ("--models=scratch", "--dataset=kmnist", "--data-source=/nowhere")
    code, stdout, stderr = submit(f"--address={cluster.dashboard}", *at(data_dir, tmp_path, *missing))
    assert code == 3, stderr
    assert "error[E-DATA-MISSING] " in stderr
    assert "error[" not in stdout


@pytest.mark.long
@pytest.mark.slow
def test_the_log_is_complete_and_without_repetition_after_a_lost_connection(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    with relay_to(cluster.dashboard) as relay:
        command = at(data_dir, tmp_path, "--models=scratch", "--epochs=100", "--run-name=cut", "--verbose")
        following = start(f"--address={relay.url}", *command)
        pid_of("scratch-s0", tmp_path / "runs/cut", epoch=5)
        relay.cut()
        time.sleep(3)
        relay.restore()
        stdout, stderr = following.communicate(timeout=JOB_SECONDS)
    assert following.returncode == 0, stderr
    assert len(hashes(stdout)) == 1
    epochs = [int(found) for found in re.findall(r"scratch-s0: epoch (\d+)", stderr)]
    assert epochs == [*range(1, 101)]


@pytest.mark.long
@pytest.mark.slow
def test_with_no_wait_the_job_id_is_printed_and_the_job_can_be_queried(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    url, config = f"--address={cluster.dashboard}", tmp_path / "config.yaml"
    config.write_text("models: [scratch]\n")
    code, stdout, stderr = submit(url, "--no-wait", *at(data_dir, tmp_path, f"--config={config}", "--plan"))
    assert code == 0, stderr
    job = stdout.strip()
    _, _, result = ray_job("logs", job, url, "--follow").partition(RESULT_BEGINS)
    assert json.loads(result.partition(RESULT_ENDS)[0])["order"] == ["scratch-s0"]
    assert job in ray_job("list", url)


@pytest.mark.long
@pytest.mark.slow
def test_a_search_over_pictures_and_a_model_file_of_this_machine_is_submitted(
    cluster: LocalCluster, data_dir: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "icons", classes("a", "b", pictures=40))
    correct(folder, correction(noise(1), "b"))
    shutil.copy(ROOT / "tests/support/own_models.py", tmp_path / "mine.py")
    np.savez(tmp_path / "body.npz", kernel=np.ones((64, 16)), bias=np.zeros(16))
    command = (
        *(sys.executable, "-m", "jobs.submit", f"--address={cluster.dashboard}", "--", "--dataset=./icons"),
        *(
            "--models=scratch,./mine.py:fine_tuned",
            "--weights=body=body.npz",
            "--vary=learning_rate=0.01,0.1",
            "--final-seeds=1",
            "--epochs=1",
        ),
        *(f"--storage={tmp_path}/storage", f"--data-dir={data_dir}", "--json"),
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path / "settings")}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MB of code and 83 files (0.0 MB) to" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["dataset"]["classes"] == ["a", "b"]
    assert summary["dataset"]["corrections"]["applied"] == 1
    assert summary["search"]["configurations"] == 4
    assert [trial["spec"]["model"] for trial in summary["trials"]] == [*summary["models"]]


@pytest.mark.parametrize(
    ("train", "error"),
    [
        (
            ["--dataset=tfds:x", "--tfds-import=/no-such.py", "--storage=/s"],
            "tfds_import: expected a Python file at /no-such.py, got an error: No such file",
        ),
        (
            ["--models=/no-such.py:f", "--storage=/s"],
            "models: expected a Python file at /no-such.py, got an error: No such file",
        ),
        (["--epoch=3"], "--epoch is not an option; did you mean --epochs?"),
        (["--epochs=0"], "epochs: expected a whole number from 1"),
        ([], "storage: expected a URL, or an absolute path on the cluster's head, got 'results'"),
        (["--storage=/s", "--address=a:1"], "address: expected none after --"),
        (["--storage=/s", "--run-name=../x"], "run_name: expected"),
        (["--storage=/s", "--resume=r"], "resume: expected none after --"),
    ],
)
def test_options_that_the_job_would_refuse_are_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], train: list[str], error: str
) -> None:
    assert main(["--address=http://127.0.0.1:1", "--", *train]) == 2
    assert error in capsys.readouterr().err


def test_an_option_of_the_job_before_the_dashes_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "./icons", "--", "--storage=/s"]) == 2
    assert (
        "--dataset is an option of jobs.train; give it after --, as in: -- --dataset ./icons" in capsys.readouterr().err
    )


def test_a_password_in_the_address_is_refused_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address=http://user:canary@127.0.0.1:1", "--", "--storage=/s"]) == 8
    printed = "".join(capsys.readouterr())
    assert "expected a URL without a user or password" in printed
    assert "canary" not in printed


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_without_a_job_server_gives_exit_code_8(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main([f"--address={url}", "--", "--storage=/s"]) == 8
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[E-CLUSTER] ")
    assert "8265" in line


def test_a_configuration_is_sent_as_a_file_whose_values_keep_their_types_and_flags_override_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seeds: [4]\nepochs: 3\nmodel_arg: {code: '007', text: 'a,b=c', sizes: [16, 32]}\n")
    train = ["--epochs=2", "--storage=/s", "--config", str(config), "--model-arg=text=d"]
    given = Plan.of(parse("jobs.submit --", TrainOptions, train))
    words, own = words_of_job(given, train)
    (name,) = own
    assert words == [f"--config={name}", "--epochs=2", "--storage=/s", "--model-arg=text=d"]
    (tmp_path / "job" / SENT).mkdir(parents=True)
    assert own[name] == config.read_bytes()
    shutil.copy(config, tmp_path / "job" / name)
    monkeypatch.chdir(tmp_path / "job")
    sent: TrainOptions = parse("jobs.train", TrainOptions, words)
    assert (sent.seeds, sent.epochs) == (given.options.seeds, given.options.epochs) == ((4,), 2)
    assert sent.model_arg == {"code": "007", "text": "d", "sizes": [16, 32]}
    config.write_text("epochs: 4")
    assert [*words_of_job(given, [f"--config={config}"])[1]] != [name]  # it is not the same job
    config.write_text("epoch: 3\n")
    with pytest.raises(UsageError, match="did you mean --epochs"):
        _check([f"--config={config}"])


def test_what_varies_makes_a_job_a_search_also_in_a_configuration_that_is_sent(tmp_path: Path) -> None:
    pytest.importorskip("jobs.search")
    config = tmp_path / "search.yaml"
    config.write_text("vary: {learning_rate: [0.1, 0.2]}\ntrials: 9\n")
    train = ["--config", str(config), "--storage=/s"]
    given = _check(train)
    assert given.options.COMMAND == "jobs.search"
    words, own = words_of_job(given, train)
    assert words[1:] == ["--storage=/s"]
    assert own == {words[0].removeprefix("--config="): config.read_bytes()}
    assert _check(["--storage=/s"]).options.COMMAND == "jobs.train"


def test_w10_the_code_that_was_checked_is_sent_and_trusted_with_its_arguments_by_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    own_model, config = tmp_path / "mine.py", tmp_path / "config.yaml"
    own_model.write_text("def small(image_shape, num_classes, width=3): ...")
    config.write_text(f"models: [{own_model}:small]\nmodel_arg: {{width: 4}}")
    train = ["--config", str(config), "--storage=/s"]
    with pytest.raises(ModelError, match=r"^models: small is code in mine\.py, .*add --trust to the command line"):
        _check(train)
    train.append("--trust")
    given = _check(train)
    checked = own_model.read_bytes()
    own_model.write_text("def small(image_shape, num_classes, width=3): evil()")
    words, own = words_of_job(given, train[:-1])  # as if the call were listed on this machine
    assert own[f"{SENT}/mine.py"] == checked
    (tmp_path / "job" / SENT).mkdir(parents=True)
    (tmp_path / "job" / SENT / "mine.py").write_bytes(checked)
    shutil.copy(config, tmp_path / "job" / words[0].removeprefix("--config="))
    monkeypatch.chdir(tmp_path / "job")
    require_trusted_code(Plan.of(parse("jobs.train", TrainOptions, words)), words)


def test_weights_are_sent_if_all_files_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"def {name}(image_shape, num_classes, body): ...")
    np.savez(tmp_path / "ours.npz", kernel=np.ones(3))
    models = f"--models={tmp_path}/one.py:one,{tmp_path}/two.py:two"
    given = _check([models, f"--weights=body={tmp_path}/ours.npz", "--storage=/s"])
    flags, own = _own_files(given)
    assert f"--weights=body={SENT}/body.npz" in flags
    assert {*own} == {f"{SENT}/one.py", f"{SENT}/two.py", f"{SENT}/body.npz"}
    monkeypatch.setattr("jobs.submit.__main__.MAX_SENT_BYTES", 300)
    with pytest.raises(UsageError, match=r"dataset, weights: expected at most 0 MB of files .* with --init-from"):
        _own_files(given)


def test_a_table_of_labels_is_sent_with_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "icons", classes("scans", pictures=8))
    rows = [f"scans/{number}.png,{'ab'[number % 2]}" for number in range(6)]
    (folder / "two.csv").write_text("\n".join(["file_name,label", *rows]))
    monkeypatch.chdir(tmp_path)
    flags, own = _own_files(_check(["--dataset=./icons/two.csv", "--storage=/s"]))
    assert f"--dataset={SENT}/two/two.csv" in flags
    assert sorted(own) == [*(f"{SENT}/two/scans/{number}.png" for number in range(6)), f"{SENT}/two/two.csv"]


def test_w11_no_file_outside_of_a_folder_of_pictures_is_sent_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "icons", classes("a", "b", pictures=4))
    write_folder(tmp_path, {"private.png": noise(5), "private": b"secret"})
    (folder / "a/link.png").symlink_to(tmp_path / "private.png")
    monkeypatch.chdir(tmp_path)
    given = _check(["--dataset=./icons", "--storage=/s"])
    _, own = _own_files(given)
    assert sorted(own) == [f"{SENT}/icons/{name}/{number}.png" for name in "ab" for number in range(4)]
    rows = [f"{name}/{number}.png,{name}{number}" for name in "ab" for number in range(4)]
    (folder / "groups.csv").write_text("\n".join(["path,group", *rows]))
    given = _check(["--dataset=./icons", "--storage=/s", "--group-by=groups.csv"])
    assert {*_own_files(given)[1]} - {*own} == {f"{SENT}/icons/groups.csv"}
    (folder / "groups.csv").unlink()
    (folder / "groups.csv").symlink_to(tmp_path / "private")
    with pytest.raises(IntegrityError, match=r"icons/groups\.csv: expected a regular file, got a link"):
        _own_files(given)
    (folder / "labels.jsonl").symlink_to(tmp_path / "private")
    given = _check(["--dataset=./icons", "--storage=/s"])
    with pytest.raises(IntegrityError, match=r"icons/labels\.jsonl: expected a regular file, got a link"):
        _own_files(given)
