"""Parsers made from the fields of a dataclass, the choice of a subcommand, and flags made from options."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import hypothesis
import hypothesis.strategies as st
import pytest
import yaml
from msgspec import Meta

from jobs import __main__ as mnist_jobs
from jobs.console import options, values
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, parse, split_subcommand
from jobs.doctor.checks import DoctorOptions
from jobs.models.options import EvaluateOptions, ExportOptions, ReproduceOptions
from jobs.predict.options import PredictOptions
from jobs.show import ShowOptions
from jobs.train.options import Seeds, TrainOptions
from mnist_lib.errors import SpecError
from mnist_lib.settings import option
from tests.support.bounds import at_most_processor_seconds


@dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Do something."""

    learning_rate: float | None = option(None, "rate")
    batch_size: int = option(128, "images")
    seeds: Seeds = option(1, "seeds")
    names: tuple[str, ...] = option((), "names")
    report: bool = option(True, "write a report")
    epochs: Annotated[int, Meta(ge=1, le=9)] = option(5, "epochs")
    sizes: Mapping[str, Any] | None = option(None, "sizes")
    code: str | None = option(None, "code to run", in_file=False)


@dataclass(frozen=True, kw_only=True)
class FewerOptions(Options, without=["seeds"]):
    """Do less."""


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
def test_i1_an_unknown_option_suggests_the_one_that_was_meant(flag: str, suggested: str | None) -> None:
    with pytest.raises(UsageError) as error:
        parse("program", Options, [flag, "1"])
    assert ("did you mean" in str(error.value)) == (suggested is not None)
    assert suggested is None or f"did you mean {suggested}?" in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        Options(),
        Options(learning_rate=0.1, seeds=(4,), names=("a",), report=False),
        Options(seeds=(4, 8), names=("a", "b"), batch_size=32),
        Options(sizes={"width": 64, "rate": 1e-05, "text": "a,b", "on": True}),
        Options(sizes={"code": "007", "text": "a,b=c", "list": [16, 32], "words": ["a"], "yes": "true"}),
    ],
)
def test_options_written_as_flags_are_parsed_to_the_same_options(given: Options) -> None:
    assert parse("program", Options, flags_of(vars(given))) == given


@pytest.mark.parametrize(("text", "size"), [("28", (28, 28)), ("32x48", (32, 48)), ("32,48", (32, 48))])
def test_an_image_size_is_read_from_the_command_line(text: str, size: tuple[int, int]) -> None:
    given: TrainOptions = parse("jobs.train", TrainOptions, ["--dataset=./letters", "--image-size", text])
    assert given.data().image_size == size


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


@pytest.mark.parametrize(
    "content",
    [
        *("config: PATH", "'config': PATH", '"config": PATH', '"\\x63onfig": PATH', "{epochs: 3, config: PATH}"),
        *("? config\n: PATH", "!!str config: PATH", "&a config: PATH", "<<: {config: PATH}"),
    ],
)
def test_w10_a_file_cannot_name_another_file(content: str, tmp_path: Path) -> None:
    config, other = tmp_path / "config.yaml", tmp_path / "other.yaml"
    other.write_text("epochs: 7")
    config.write_text(content.replace("PATH", str(other)))
    with pytest.raises(UsageError, match="expected no option `config` in a file"):
        parse("program", Options, ["--config", str(config)])


@pytest.mark.parametrize("name", ["sizes.width", "Config", "config_", "x" * 1_000])
def test_an_unknown_name_in_a_file_is_refused_in_a_short_line(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"? {name}\n: 3")
    with pytest.raises(UsageError, match=" is not an option") as refused:
        parse("program", Options, ["--config", str(config)])
    assert len(str(refused.value)) < 200


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    os.truncate(config, 10**11)
    with at_most_processor_seconds(2), pytest.raises(UsageError, match="at most 100,000 bytes"):
        parse("program", Options, ["--config", str(config)])


@pytest.mark.parametrize("text", ["width", "=3"])
def test_values_without_a_name_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=VALUE, such as width=64, got"):
        parse("program", Options, [f"--sizes={text}"])


def test_options_that_a_command_lacks_are_refused_as_flags_and_keep_defaults() -> None:
    given = parse("program", FewerOptions, ["--epochs=7"])
    assert (given, given.seeds) == (FewerOptions(epochs=7), 1)
    with pytest.raises(UsageError, match="--seeds is not an option"):
        parse("program", FewerOptions, ["--seeds=2"])


@pytest.mark.parametrize("command", [[], *([name] for name in mnist_jobs.COMMANDS), ["models", "list"]])
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


COMMANDS = [
    *((ShowOptions, []), (DoctorOptions, []), (EvaluateOptions, ["keras"])),
    *((ReproduceOptions, ["keras"]), (ExportOptions, ["keras", "--format=onnx"])),
]


@pytest.mark.parametrize(("kind", "required"), COMMANDS)
def test_a_data_dir_that_does_not_exist_is_refused_and_not_created(
    kind: type[Any], required: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"expected an existing folder, got .*tfds; create it"):
        parse("program", kind, [f"--data-dir={tmp_path}/tfds"])
    assert not (tmp_path / "tfds").exists()
    assert parse("program", kind, [*required, f"--data-dir={tmp_path}"]).data_dir == tmp_path


def test_a_tilde_in_the_path_of_a_folder_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tfds").mkdir()
    assert values.existing_folder("~/tfds") == tmp_path / "tfds"
    with pytest.raises(ValueError, match=str(tmp_path)):
        values.existing_folder("~/tdfs")


CONTROLS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_in_any_text_is_refused_and_the_rest_is_not_printed(control: str, tmp_path: Path) -> None:
    text, config = f"canary{control}x", tmp_path / "config.yaml"
    expected = ": expected text without control characters, got "
    words = [f"--names=a,{text}", f"--sizes=name={text}", f"--sizes={text}=1", f"--code={text}", f"--epochs=1{control}"]
    for word in words:
        with pytest.raises(UsageError, match=expected) as refused:
            parse("program", Options, [word])
        assert "canary" not in str(refused.value)
    for content in ({"names": ["a", text]}, {"sizes": {"name": text}}, {"sizes": {"name": [{text: 1}]}}):
        config.write_text(yaml.safe_dump(content))
        with pytest.raises(UsageError, match=expected):
            parse("program", Options, ["--config", str(config)])


def test_one_odd_name_among_several_pictures_is_accepted() -> None:
    names = ["a.png", "two\nlines.png"]
    assert parse("program", PredictOptions, names).pictures == tuple(map(Path, names))


ODD_FILES = [
    b"address: https://hooks.example.com/canary: x",
    b"address: [https://hooks.example.com/canary]",
    b"data_dir: {https://hooks.example.com/canary: 1}",
    b"finish_by: !!timestamp canary",
    b"learning_rate: !!float canary",
    b"\xff\xfecanary",
    b"run_name: " + b"[" * 900 + b"]" * 900,
    b"- " * 5000,
    b"{" * 5000,
]


@pytest.mark.parametrize("content", ODD_FILES, ids=lambda content: content[:12].decode(errors="replace"))
def test_an_odd_configuration_file_is_one_short_line_without_its_values(content: bytes, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        parse("program", TrainOptions, ["--config", str(config)])
    assert "\n" not in str(refused.value)
    assert "canary" not in str(refused.value)
    assert len(str(refused.value)) < 300


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary()
VALUES = st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(SCALARS, part), max_leaves=5)
KEYS = st.sampled_from([field.name for field in fields(TrainOptions)]) | st.text()
PARTS = (
    "train: ;name: ;cron: ;seeds: ;!!timestamp ;!!int ;!!binary ;!!set ;!!omap ;[;];{;};- ;\n;  ;? ;*a;&a ;>;|;';<<: "
)
PARTS += ";%YAML 1.1\n;---\n;0x;1e999;\t;#;~;=;: ;,;2026-99-99;1:60:70;@;`;!;!<a>;\0;\x85;\ufeff"
DOCUMENTS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=3).map(lambda given: yaml.dump(given).encode()),
    st.lists(st.sampled_from(PARTS.split(";")), max_size=12).map(lambda parts: "".join(parts).encode()),
    st.binary(),
)


# argparse takes the value in --name=-- for the end of the options.
VALUE_OF_OPTION = st.text().filter(lambda text: text != "--")


@pytest.mark.slow
@pytest.mark.fuzz
@hypothesis.given(DOCUMENTS, st.sampled_from([TrainOptions, DoctorOptions]))
def test_any_configuration_file_is_read_or_refused(content: bytes, kind: type[Any]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as config:
        config.write(content)
        config.flush()
        with contextlib.suppress(UsageError, SpecError):  # whose messages are one line, as test_output.py checks
            parse("program", kind, ["--config", config.name])


@pytest.mark.fuzz
@hypothesis.given(VALUE_OF_OPTION, VALUE_OF_OPTION)
def test_u9_any_text_is_the_value_of_an_option_or_refused(name: str, text: str) -> None:
    try:
        given = parse("program", Options, [f"--code={text}", f"--names={name}"])
    except UsageError:
        assert values.CONTROL.search(name + text)
        return
    assert given.code == text
    assert parse("program", Options, flags_of(vars(given))) == given
