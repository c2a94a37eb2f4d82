"""What someone who can write to the storage cannot do with the stored configuration of a run that is resumed."""

import dataclasses
import shlex
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import SOURCE_FOLDERS
from jobs.console import values
from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, parse
from jobs.search.options import SearchOptions
from jobs.train.__main__ import configuration, resumed_options
from jobs.train.options import TrainOptions
from jobs.train.resuming import absolute
from mnist_lib.environment import code_version
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.model_file import trust
from mnist_lib.objects.local import LocalObjects
from mnist_lib.settings import options_of, types_of
from mnist_lib.store.opening import open_run
from tests.support.builders import builder_file
from tests.support.job import train
from tests.support.pictures import classes, write_folder

MODEL = "def small(image_shape, num_classes, path='x', width=3): ...\n"


def stored(storage: Path, content: str, kind: type[TrainOptions] = TrainOptions) -> Path:
    """Begin a run with this stored configuration."""
    storage.mkdir(exist_ok=True)
    opened = open_run(
        LocalObjects(storage), "r", dataset="mnist-mini", terms={}, configuration=content, command=kind.COMMAND
    )
    with opened:
        return storage


def resumed(storage: Path, *arguments: str, kind: type[TrainOptions] = TrainOptions) -> TrainOptions:
    words = ["--resume=r", f"--storage={storage}", *arguments]
    options: TrainOptions = resumed_options(parse(kind.COMMAND, kind, words), words)
    return options


def begun(storage: Path, *arguments: str, kind: type[TrainOptions] = TrainOptions) -> TrainOptions:
    """Store the run of a command line, and return its options."""
    options: TrainOptions = parse(kind.COMMAND, kind, arguments)
    terms, text = (
        options.terms(code_version(SOURCE_FOLDERS)),
        yaml.safe_dump(configuration(options), sort_keys=False),
    )
    dataset, command = options.data().name, kind.COMMAND
    with open_run(LocalObjects(storage), "r", dataset=dataset, terms=terms, configuration=text, command=command):
        return options


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("dataset: /home/me/private", ["--dataset=/home/me/private"]),
        ("dataset: s3://bucket/private", ["--dataset=s3://bucket/private"]),
        ("{dataset: 'tfds:x', tfds_import: /later.py}", ["--dataset=tfds:x", "--tfds-import=/later.py"]),
        ("dataset: tfds:my_private", ["--dataset=tfds:my_private"]),
        ("data_dir: /home/me/datasets", ["--data-dir=/home/me/datasets"]),
        ("{dataset: mnist, data_source: /home/me}", ["--data-source=/home/me"]),
        ("address: 10.0.0.9:6379", ["--address=10.0.0.9:6379"]),
        ("models: [keras, /x/evil.py:small]", ["--models=keras,/x/evil.py:small"]),
        (
            "{models: /x/mine.py:small, model_arg: {path: /home/me/.profile}, hidden_units: 3}",
            ["--hidden-units=3", "--model-arg=path=/home/me/.profile", "--models=/x/mine.py:small"],
        ),
    ],
)
def test_w10_what_names_files_code_or_addresses_is_not_taken_from_the_storage(
    content: str, flags: Sequence[str], tmp_path: Path
) -> None:
    storage = stored(tmp_path, content)
    with pytest.raises(UsageError, match=r"^resume: expected ") as refused:
        resumed(storage)
    assert f" {shlex.join(flags)} on the command line, with which r was begun; " in str(refused.value)
    assert flags_of(resumed(storage, *flags).outside) == flags


def test_w10_a_search_of_a_user_model_gets_its_arguments_from_the_command_line(tmp_path: Path) -> None:
    own, space = tmp_path / "mine.py", tmp_path / "space.yaml"
    own.write_text(MODEL)
    space.write_text("path: [a, b]")
    storage = stored(tmp_path, f"models: {own}:small\nvary: {{path: [/home/me/.profile]}}", SearchOptions)
    with pytest.raises(UsageError, match=r"expected --models=\S+ '--vary=.*/home/me/\.profile.*' on "):
        resumed(storage, kind=SearchOptions)
    options = resumed(storage, f"--models={own}:small", f"--space={space}", kind=SearchOptions)
    assert isinstance(options, SearchOptions)
    assert options.variation.document() == {"path": ["a", "b"]}


def test_w10_no_stored_argument_is_passed_to_code_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    storage = stored(tmp_path, "{models: keras, model_arg: {path: /home/me/.profile}, hidden_units: 3, epochs: 7}")
    options = resumed(storage, f"--models={tmp_path}/mine.py:small", "--model-arg=width=4")
    assert (options.model_arg, options.hidden_units, options.epochs) == ({"width": 4}, None, 7)


@pytest.mark.parametrize("name", [*options_of(TrainOptions, "process"), "config", "no_option"])
def test_w10_a_stored_configuration_has_no_options_of_a_process(name: str, tmp_path: Path) -> None:
    for content in (f"{name}: 1", f"{{epochs: 3, {name}: 1}}", f"? !!str {name}\n: 1"):
        storage = stored(tmp_path / str(len(content)), content)
        with pytest.raises(IntegrityError, match=f"runs/r: .*{name.replace('_', '.')}"):
            resumed(storage)


@pytest.mark.parametrize("content", ["epochs: [1", "epochs: x", "- 1", "\udcff", "x: &a 1\ny: *a", "[" * 90_000])
def test_w10_a_damaged_configuration_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    storage = stored(tmp_path, "")
    (storage / "runs/r/config.yaml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(IntegrityError, match="runs/r: ") as refused:
        resumed(storage)
    assert "\n" not in str(refused.value)


def test_a_name_beside_the_run_to_resume_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, "--models=scratch")
    assert resumed(tmp_path, "--run-name=r").run_name == "r"
    with pytest.raises(UsageError, match="run_name: expected it or --resume, which names a run, got other; omit one"):
        resumed(tmp_path, "--run-name=other")


def test_a_run_of_catalog_names_is_resumed_with_nothing_repeated(tmp_path: Path) -> None:
    given = ("--dataset=mnist", "--models=scratch", "--seeds=4,8", "--hidden-units=7", "--storage=results")
    options = begun(tmp_path, *given)
    again = resumed(tmp_path)
    assert dataclasses.replace(again, run_name=None, resume=None, storage="results") == options


@pytest.mark.parametrize("kind", [TrainOptions, SearchOptions])
def test_the_options_to_repeat_are_those_that_the_advice_prints(kind: type[TrainOptions], tmp_path: Path) -> None:
    own, folder = tmp_path / "mine.py", write_folder(tmp_path / "letters", classes("a", "b", pictures=2))
    own.write_text(MODEL)
    words = [
        f"--models=scratch,{own}:small",
        f"--dataset={folder}",
        f"--data-dir={tmp_path}",
        "--address=10.0.0.1:6379",
    ]
    words += ["--vary=width=3,4"] if kind is SearchOptions else ["--model-arg=width=4", "--model-arg=path=a,b"]
    options = begun(tmp_path, *words, "--epochs=7", kind=kind)
    advice = flags_of(absolute(options).outside)
    with pytest.raises(UsageError) as refused:
        resumed(tmp_path, kind=kind)
    assert f" {shlex.join(advice)} on the command line" in str(refused.value)
    again = resumed(tmp_path, *advice, kind=kind)
    code = code_version(SOURCE_FOLDERS)
    assert (again.terms(code), again.address, again.epochs) == (options.terms(code), options.address, 7)


@pytest.mark.parametrize("kind", [TrainOptions, SearchOptions])
def test_every_option_that_takes_a_path_is_outside(kind: type[Any]) -> None:
    """A further option that takes text is added to one of these sets by whoever adds it."""
    fields, kinds = options_of(kind, "trial", "search", "run", "driver"), types_of(kind)
    bases = {name: values.base_of(kinds[field.name]) for name, field in fields.items()}
    paths = {name for name, base in bases.items() if base is Path}
    texts = {name for name, base in bases.items() if base in (str, tuple)}
    outside = {name for name, field in fields.items() if field.metadata["source"] == "user"}
    of_catalog = {"optimizer", "schedule", "precision", "class_weights", "score", "promote", "strategy"}
    assert paths <= outside
    assert texts - outside <= {
        *of_catalog,
        "train_split",
        "test_split",
        "finish_by",
        "image_size",
        "dataset_name",
        "init_from",  # a version in the same storage, of which only numbers are read
    }


@pytest.mark.parametrize("kind", [TrainOptions, SearchOptions])
def test_m2_code_of_a_configuration_file_is_trusted_together_with_its_arguments(
    kind: type[TrainOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    own, config = tmp_path / "mine.py", tmp_path / "config.yaml"
    own.write_text(MODEL)
    vary = {"vary": {"width": [3, 4], "learning_rate": "0.1,0.2"}} if kind is SearchOptions else {}

    def require_trusted(given: Mapping[str, Any], *flags: str) -> TrainOptions:
        config.write_text(yaml.safe_dump({**vary, **given}))
        words = ["--config", str(config), *flags]
        options: TrainOptions = parse(kind.COMMAND, kind, words)
        options.require_trusted(words)
        return options

    trusted: dict[str, Any] = {"models": [f"{own}:small"], "model_arg": {"path": "a"}}
    refused: dict[str, Any] = {"models": [f"{own}:small"], "model_arg": {"path": "/home/me/.profile"}}
    with pytest.raises(ModelError, match=r"^models: small is code in mine\.py, sha256 \w+, run as small\(path='a'"):
        require_trusted(trusted)
    trust(require_trusted(trusted, "--trust").calls.values())
    require_trusted(trusted)
    with pytest.raises(ModelError, match=r"run as small\(path='/home/me/\.profile'"):
        require_trusted(refused)
    with pytest.raises(ModelError, match=r"run as small\(path='/home/me/\.profile'"):
        require_trusted({"model_arg": refused["model_arg"]}, f"--models={own}:small")
    varied = {**trusted, "vary": {"width": [5, 6]}}
    if kind is SearchOptions:
        with pytest.raises(ModelError, match=r"--vary={'width': \[5, 6\]}"):
            require_trusted(varied)


@pytest.mark.slow
def test_w10_a_private_picture_is_in_no_report_of_a_resumed_run(tmp_path: Path) -> None:
    private = write_folder(tmp_path / "private", classes("a", "b", pictures=10))
    begun(tmp_path / "results", f"--dataset={private}", "--models=scratch", "--epochs=1")
    code, stdout, stderr = train("--resume=r", "--storage", tmp_path / "results", home=tmp_path)
    assert (code, stdout) == (2, "")
    assert f"expected --dataset={private} on the command line" in stderr
    assert not (tmp_path / "results/runs/r/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["resume", "config"])
def test_w10_code_that_appears_after_the_check_is_not_run(command: str, tmp_path: Path) -> None:
    builder, canary, config = tmp_path / "later.py", tmp_path / "canary", tmp_path / "config.yaml"
    given = (f"--tfds-import={builder}", "--dataset=tfds:leaf_images", f"--data-dir={tmp_path}", "--models=scratch")
    builder_file(tmp_path, "LeafImages", fixed=True).rename(builder)
    code_of_builder = builder.read_text()
    config.write_text(yaml.safe_dump(configuration(begun(tmp_path / "results", *given))))
    builder.unlink()

    def write_late() -> None:
        builder.write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n{code_of_builder}")

    timer = threading.Timer(3.0, write_late)
    timer.start()
    words = ("--resume=r",) if command == "resume" else ("--config", config)
    code, stdout, _ = train(*words, "--storage", tmp_path / "results", home=tmp_path)
    timer.join()
    assert (code, stdout) == (2, "")
    assert not canary.exists()
    assert not (tmp_path / ".config/mnist-jobs").exists()
