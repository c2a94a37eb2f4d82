"""Parsers made from the fields of a dataclass, the choice of a subcommand, and flags made from options."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from jobs import __main__ as mnist_jobs
from jobs.console import values
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, option, parse, split_subcommand
from jobs.doctor.__main__ import DoctorOptions
from jobs.models.options import EvaluateOptions, ExportOptions, ReproduceOptions
from jobs.predict.options import PredictOptions
from jobs.show import ShowOptions
from mnist_lib.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Do something."""

    learning_rate: float | None = option(None, "rate", values.number, "X")
    batch_size: int = option(128, "images", values.whole_number, "N")
    seeds: tuple[int, ...] | int = option(1, "seeds", values.seeds, "N|A,B")
    names: tuple[str, ...] = option((), "names", values.comma_list, "A,B")
    report: bool = option(True, "write a report")
    epochs: int = option(5, "epochs", values.whole_number, "N")
    sizes: Mapping[str, Any] | None = option(None, "sizes", values.named_values, "NAME=VALUE", repeated=True)
    code: str | None = option(None, "code to run", str, "CODE", typed=True)


@pytest.mark.parametrize(
    ("flag", "suggested"),
    [
        ("--lr", "--learning-rate"),
        ("-lr", "--learning-rate"),
        ("--bs", "--batch-size"),
        ("--learnrate", "--learning-rate"),
        ("--learning_rate", "--learning-rate"),
        ("--epoch", "--epochs"),
        ("--num-epochs", "--epochs"),
        ("--wd", None),
        ("--plan", None),
    ],
)
def test_an_unknown_option_suggests_the_one_that_was_meant(flag: str, suggested: str | None) -> None:
    with pytest.raises(UsageError) as error:
        parse("program", Options, [flag, "1"])
    assert ("did you mean" in str(error.value)) == (suggested is not None)
    assert suggested is None or f"did you mean {suggested}?" in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(learning_rate=0.1, seeds=(4,), names=("a",), report=False),
        Options(seeds=(4, 8), names=("a", "b"), batch_size=32),
        Options(sizes={"width": 64, "rate": 1e-05, "text": "a,b", "on": True}),
    ],
)
def test_options_written_as_flags_are_parsed_to_the_same_options(options: Options) -> None:
    assert parse("program", Options, flags_of(vars(options))) == options


def test_a_repeated_option_adds_to_its_values_and_to_those_of_a_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("sizes: {width: 1, depth: 2}")
    given = ["--config", str(config), "--sizes", "width=3", "--sizes=height=4,name=x"]
    assert parse("program", Options, given).sizes == {"width": 3, "depth": 2, "height": 4, "name": "x"}


def test_flags_override_a_file_wherever_they_stand(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("epochs: 7")
    assert parse("program", Options, ["--epochs=3", "--config", str(config)]).epochs == 3
    assert parse("program", Options, [f"--config={config}", "--epochs=3"]).epochs == 3


def test_what_can_run_code_is_accepted_on_the_command_line_only(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("code: evil()")
    with pytest.raises(UsageError, match=r"code: not accepted in a --config file, .*; use --code"):
        parse("program", Options, ["--config", str(config)])
    assert parse("program", Options, ["--config", str(config), "--code=good()"]).code == "good()"


@pytest.mark.parametrize("name", ["config", "'config'", '"config"'])
def test_a_file_cannot_name_another_file(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"epochs: 3\n{name}: other.yaml")
    with pytest.raises(UsageError, match="expected no option `config` in a file"):
        parse("program", Options, ["--config", str(config)])


@pytest.mark.parametrize("text", ["width", "=3"])
def test_values_without_a_name_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE, such as width=64, got"):
        parse("program", Options, [f"--sizes={text}"])


def test_options_that_a_command_lacks_are_refused_as_flags_and_keep_defaults() -> None:
    assert parse("program", Options, ["--epochs=7"], left_out=["seeds"]) == Options(epochs=7)
    with pytest.raises(UsageError, match="--seeds is not an option"):
        parse("program", Options, ["--seeds=2"], left_out=["seeds"])


@pytest.mark.parametrize("command", [[], ["train"], ["models"], ["models", "list"], ["retrain"], ["submit", "stop"]])
def test_every_command_prints_the_version(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        mnist_jobs.main([*command, "--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"mnist-jobs {metadata.version('mnist-jobs')}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_subcommands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        split_subcommand("program", {"list": "List\n    all.", "show": None}, arguments)
    assert not end.value.code
    assert capsys.readouterr().out == "usage: program COMMAND [OPTIONS]\n\n  list  List all.\n  show\n"


def test_an_unknown_subcommand_suggests_the_one_that_was_meant() -> None:
    with pytest.raises(SpecError, match=r"command: 'lst' is not known; did you mean list\?"):
        split_subcommand("program", {"list": "List all."}, ["lst"])


@pytest.mark.parametrize("arguments", [[], ["--epochs=1"], ["--help"]])
def test_a_program_that_also_runs_without_a_subcommand_needs_none(arguments: list[str]) -> None:
    assert split_subcommand("program", {"": None, "list": None}, arguments) == ("", arguments)
    assert split_subcommand("program", {"": None, "list": None}, ["list", *arguments]) == ("list", arguments)


COMMANDS = [ShowOptions, DoctorOptions, PredictOptions, EvaluateOptions, ReproduceOptions, ExportOptions]


@pytest.mark.parametrize("options", COMMANDS)
def test_a_data_dir_that_does_not_exist_is_refused_and_not_created(options: type[Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected an existing folder, got .*tfds; create it"):
        parse("program", options, [f"--data-dir={tmp_path}/tfds"])
    assert not (tmp_path / "tfds").exists()
    assert parse("program", options, [f"--data-dir={tmp_path}"]).data_dir == tmp_path


def test_a_tilde_in_the_path_of_a_folder_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tfds").mkdir()
    assert values.existing_folder("~/tfds") == tmp_path / "tfds"
    with pytest.raises(argparse.ArgumentTypeError, match=str(tmp_path)):
        values.existing_folder("~/tdfs")
