"""What the README says is held to the code: its commands, its options, its file map."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.console.options import parse, split_at_dashes
from jobs.doctor.__main__ import DoctorOptions
from jobs.models.__main__ import COMMANDS
from jobs.predict.options import PredictOptions
from jobs.retrain import __main__ as retrain
from jobs.retrain.options import RetrainOptions, check_train, train_flags
from jobs.show import ShowOptions
from jobs.submit import __main__ as submit
from jobs.submit.following import SubmitOptions
from jobs.train.options import TrainOptions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command of the shell blocks, without its comment."""
    text = "".join(body for kind, body in BLOCKS if kind == "sh").replace("\\\n", " ")
    return [line.partition(" #")[0].strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_there_are_commands_to_check() -> None:
    assert {"make train", "make test"} <= set(commands())


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.train" in c or "mnist-jobs train" in c])
def test_every_train_command_is_understood_by_the_real_parser(
    command: str,
) -> None:
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word in ("jobs.train", "train")) + 1
    options: TrainOptions = parse("jobs.train", TrainOptions, words[start:])
    assert options.trials()


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.submit" in c])
def test_every_submission_is_understood_by_both_parsers(command: str) -> None:
    words = shlex.split(command)
    own, _, train = " ".join(words[words.index("jobs.submit") + 1 :]).partition("-- ")
    name = own.split()[0]
    if name in submit.COMMANDS:
        assert parse(f"jobs.submit {name}", submit.COMMANDS[name][0], own.split()[1:])
    else:
        assert parse("jobs.submit", SubmitOptions, own.split())
        assert parse("jobs.train", TrainOptions, train.split()).trials()


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.retrain" in c])
def test_every_schedule_is_understood_with_the_file_that_is_shown(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (file,) = [body for kind, body in BLOCKS if kind == "yaml"]
    Path("retrain.yaml").write_text(file)
    words = shlex.split(command)
    own, train = split_at_dashes(words[words.index("jobs.retrain") + 1 :])
    name = None if own[0].startswith("-") else own.pop(0)
    options: RetrainOptions = parse("jobs.retrain", retrain.COMMANDS[name][0] if name else RetrainOptions, own)
    options.check()
    assert options.timetable()
    assert check_train(train_flags(options, train)).trials()


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.doctor" in c])
def test_every_examination_is_understood(command: str) -> None:
    words = shlex.split(command)
    assert parse("jobs.doctor", DoctorOptions, words[words.index("jobs.doctor") + 1 :])


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.show" in c])
def test_every_look_at_a_dataset_is_understood(command: str) -> None:
    words = shlex.split(command)
    options: ShowOptions = parse("jobs.show", ShowOptions, words[words.index("jobs.show") + 1 :])
    options.check()


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.models" in c])
def test_every_command_about_the_store_is_understood(command: str) -> None:
    words = shlex.split(command)
    name, *others = words[words.index("jobs.models") + 1 :]
    kind, _ = COMMANDS[name]
    assert parse(f"jobs.models {name}", kind, others)


@pytest.mark.parametrize("command", [c for c in commands() if "jobs.predict" in c])
def test_every_prediction_is_understood(command: str) -> None:
    words = shlex.split(command)
    options: PredictOptions = parse("jobs.predict", PredictOptions, words[words.index("jobs.predict") + 1 :])
    options.check()


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_every_make_command_has_its_target(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_file_map_is_the_tree() -> None:
    """Every source file is in the map, and nothing that is not there."""
    (body,) = [body for kind, body in BLOCKS if kind == "text" and body.startswith("jobs/")]
    mapped = {line.split()[0] for line in body.splitlines()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = {path for path in tracked if re.fullmatch(r"(jobs|mnist_lib|cluster)/.*\.py", path)}
    assert mapped == {path for path in sources if not path.endswith("/__init__.py")}


def test_every_option_that_the_text_names_exists() -> None:
    commands = [*COMMANDS.values(), *submit.COMMANDS.values(), *retrain.COMMANDS.values()]
    own = [TrainOptions, RetrainOptions, PredictOptions, ShowOptions]
    options: list[Any] = [*own, *(kind for kind, _ in commands)]
    names = {name for kind in options for name in kind.__dataclass_fields__} | {"config", "help"}
    known = {f"--{name.replace('_', '-')}" for name in names}
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(?:gc )?(--[a-z-]+)", prose)) <= known
