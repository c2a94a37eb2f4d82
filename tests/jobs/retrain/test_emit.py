"""What `jobs.retrain emit` keeps, and what it refuses with one line and exit code 2 instead of writing it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.console.options import parse, split_at_dashes
from jobs.retrain import __main__ as retrain
from jobs.retrain.options import RetrainOptions, check_train, train_options
from mnist_lib.settings import options_of
from tests.support.emitted import kubernetes_words, systemd_words
from tests.support.job import ROOT
from tests.support.schedule import DAILY

EVERYWHERE = ("crontab", "systemd", "kubernetes")
CONFIGURATION: dict[str, Any] = {
    "name": "weekly",
    "cron": "5 4 * * 0",
    "tz": "Europe/Berlin",
    "storage": "/storage/digits",
    "train": {
        "epochs": 7,
        "models": ["scratch"],
        "seeds": [4],
        "dataset": "s3://bucket/letters",
        "group_by": r"^(\w+)'s [^/$]+ \\x",
    },
    "once": True,
    "max_attempts": 2,
    "skip_unchanged": True,
    "lease_seconds": 60.0,
    "notify": "https://hooks.example.com/canary?a=50%25&b=c",
    "notify_on": ["failure", "promotion"],
    "verbose": True,
}


def read(scheduler: str, files: dict[str, str]) -> list[str]:
    """Return the words of the emitted command."""
    (text,) = files.values()
    if scheduler == "crontab":
        (line,) = re.findall("^@reboot (.*)", text, re.MULTILINE)
        words = shlex.split(line)
        return words[words.index("&&") + 1 :]
    return systemd_words(text) if scheduler == "systemd" else kubernetes_words(text)


@pytest.mark.parametrize("scheduler", EVERYWHERE)
def test_every_key_of_the_configuration_is_kept_but_the_receiver_of_notices(
    scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(options_of(RetrainOptions)) - set(CONFIGURATION) == {"now", "json"}
    config = tmp_path / "retrain.yaml"
    config.write_text(yaml.safe_dump(CONFIGURATION))
    assert retrain.main(["emit", scheduler, "--config", str(config), "--json", "--", "--seed=3"]) == 0
    shown = capsys.readouterr()
    own, train = split_at_dashes(read(scheduler, json.loads(shown.out))[3:])
    given: RetrainOptions = parse("jobs.retrain", RetrainOptions, ["--config", str(config)])
    emitted: RetrainOptions = parse("jobs.retrain", RetrainOptions, own)
    changes = {"notify": None, "once": scheduler != "systemd"}  # systemd runs the daemon
    assert vars(emitted) == {**vars(given), **changes}
    assert train == ["--seed=3"]
    assert "canary" not in shown.out
    assert "MNIST_JOBS_NOTIFY" in shown.out
    assert "notify is left out, since others may read this file" in shown.err


@pytest.mark.parametrize("scheduler", EVERYWHERE)
def test_a_search_is_emitted_with_its_space(scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = pytest.importorskip("jobs.search.plan")
    config, vary = tmp_path / "retrain.yaml", {"learning_rate": "1e-4..1e-1:log", "hidden_units": [16, 32]}
    config.write_text(yaml.safe_dump({**CONFIGURATION, "train": {"vary": vary, "trials": 9}}))
    assert retrain.main(["emit", scheduler, "--config", str(config), "--json"]) == 0
    words = read(scheduler, json.loads(capsys.readouterr().out))
    given = check_train(train_options(parse("jobs.retrain", RetrainOptions, words[3:]), []))
    assert isinstance(given, search.SearchOptions)
    assert (given.vary, given.trials) == (vary, 9)


@pytest.mark.parametrize("scheduler", EVERYWHERE)
@pytest.mark.parametrize(
    "option", ["--storage", "--image", "--name", "--notify", "--data-dir", "--dataset", "--address"]
)
def test_a_line_break_in_an_option_is_refused(scheduler: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"{option}=/x\nExecStartPre=/canary"
    own, train = ([given], []) if option in ("--storage", "--image", "--name", "--notify") else ([], [given])
    assert retrain.main(["emit", scheduler, DAILY, *own, "--", *train]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "expected text without control characters, got '\\n' in it" in err


@pytest.mark.parametrize("storage", ["/s", "/storages", "file:///s", "~/s", "/tmp/s"])
def test_a_folder_that_no_volume_holds_is_refused_as_storage_of_a_container(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain.main(["emit", "kubernetes", DAILY, f"--storage={storage}"]) == 2
    expected = "error[E-USAGE] storage: expected no path of this machine, since the container has only its volume"
    assert capsys.readouterr().err.startswith(expected)
    for accepted in ("/storage", "/storage/a", "file:///storage/a", "s3://bucket/a"):
        assert retrain.main(["emit", "kubernetes", DAILY, f"--storage={accepted}"]) == 0
        assert f"--storage={accepted.removeprefix('file://')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--storage=s3://user:canary@bucket", "storage: expected a URL without credentials"),
        ("--storage=ftp://bucket", "storage: expected a folder, or a URL with"),
        ("--now", "--now is not an option"),
    ],
)
def test_what_every_run_would_refuse_is_not_emitted(
    option: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain.main(["emit", "systemd", DAILY, option]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error[E-USAGE] {error}" in err
    assert "canary" not in err


@pytest.mark.slow
def test_a_mistyped_address_of_a_receiver_is_neither_run_nor_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.retrain", "--once", DAILY, "--notify=hooks.example.com/canary"]
    done = subprocess.run([*command, f"--storage={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[E-USAGE] notify: expected a URL with http:// or https://, or a command")
    assert "canary" not in done.stderr
