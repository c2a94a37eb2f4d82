"""Every command in every document is accepted by the parser of that command."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import pytest

from docs.reference.make import parsers
from jobs.__main__ import COMMANDS as PROGRAMS
from jobs.console.exit_codes import ERRORS, UsageError
from jobs.train.options import TrainOptions
from mnist_lib.environment import moment_of
from tests.support.builders import builder_file
from tests.support.commands import parse_command, split_command
from tests.support.documents import DOCUMENTS, ROOT, Snippet, blocks, commands, name_of, prose

COMMANDS = commands()
# Options that documents mention although no command of this project has them, with the reason.
OTHER_OPTIONS = {"--block": "ray start", "--lr": "is refused"}
OTHER_OPTIONS |= dict.fromkeys(
    (
        "--catch-up",
        "--init",
        "--jitter",
        "--overlap",
        "--search",
        "--starting-deadline",
        "--most-catch-up",
        "--nodes-per-trial",
        "--calibrate",
        "--propose",
        "--max-epochs",
        "--max-epochs-total",
        "--from-test",
        "--open",
        "--at",
        "--count",
        "--lease",
        "--space",
        "--strict",
    ),
    "was removed",
)
OTHER_PROGRAMS = ("ray ", "kubectl ", "docker ", "pip ")


def require_not_expired(options: TrainOptions) -> None:
    """Check that the date in a command will not be refused in ten years either."""
    if options.finish_by is not None:
        text = f"{options.COMMAND}: write the time of --finish-by as $(date ...), so that it does not expire"
        assert timedelta() < moment_of(options.finish_by) - datetime.now(UTC) < timedelta(days=2), text


@pytest.fixture(scope="module")
def shown_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the documents show; the first line of each is its name."""
    folder = tmp_path_factory.mktemp("shown")
    for block in [*blocks("yaml"), *blocks("python")]:
        for name in re.findall(r"\A# (\S+\.(?:yaml|py))\n", block.text):
            (folder / name).write_text(block.text)
    builder_file(folder, "Leaf_Images", fixed=True)  # documents name these two and do not show them
    for name in ("digits", "imagenet"):
        with h5py.File(folder / f"{name}.weights.h5", "w") as file:
            file["kernel"] = [1.0]
    return folder


@pytest.fixture
def with_shown_files(shown_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown_files)


@pytest.mark.parametrize("command", [c for c in COMMANDS if split_command(c.text)[0] != "make"], ids=repr)
def test_every_command_is_accepted_by_its_parser(command: Snippet, with_shown_files: None) -> None:
    name, words = split_command(command.text)
    if words and words[-1] != "--help":  # else the document only mentions the command
        for options in parse_command(name, words):
            if isinstance(options, TrainOptions):
                require_not_expired(options)


@pytest.mark.parametrize("target", sorted({c.text for c in COMMANDS if split_command(c.text)[0] == "make"}))
def test_every_make_target_that_a_document_names_exists(target: str) -> None:
    _, words = split_command(target)
    done = subprocess.run(["make", *words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_make_train_and_make_test() -> None:
    assert {"make train", "make test"} <= {c.text for c in COMMANDS if c.document == "README.md"}


def test_every_command_of_the_project_is_in_a_document() -> None:
    shown = {split_command(command.text)[0] for command in COMMANDS}
    assert shown >= {f"jobs.{name}" for name in PROGRAMS}
    subcommands = {" ".join([name, *words[:1]]) for name, words in (split_command(c.text) for c in COMMANDS)}
    assert {name for name in parsers() if " " in name} <= subcommands


@pytest.mark.parametrize("wrong", ["python -m jobs.train --epoch 1", "python -m jobs.models lst", "python -m jobs.x"])
def test_a_command_that_does_not_exist_is_refused(wrong: str, with_shown_files: None) -> None:
    name, words = split_command(wrong)
    with pytest.raises((UsageError, KeyError)):
        parse_command(name, words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_option_that_a_document_names_exists(path: Path) -> None:
    known = {name for made in parsers().values() for action in made._actions for name in action.option_strings}
    codes = [code for code in re.findall(r"`([^`]+)`", prose(path)) if not code.startswith(OTHER_PROGRAMS)]
    named = {name for code in codes for name in re.findall(r"(?<!\S)(--[a-z][a-z-]*)", code)}
    assert named <= known | OTHER_OPTIONS.keys()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_error_code_that_a_document_names_exists(path: Path) -> None:
    assert set(re.findall(r"\bE-[A-Z]+(?:-[A-Z]+)*", prose(path))) <= {*ERRORS, "E-CODE"}


def test_every_environment_variable_that_a_document_names_is_used() -> None:
    named = {name for path in DOCUMENTS for name in re.findall(r"`(MNIST_[A-Z_]+)", prose(path))}
    files = (file for folder in ("jobs", "mnist_lib", "cluster", "tests") for file in (ROOT / folder).rglob("*.py"))
    assert named - {*re.findall("MNIST_[A-Z_]+", " ".join(file.read_text() for file in files))} == set()
