"""What someone who can write to the storage cannot do with the stored configuration of a run: it is only printed."""

import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import SOURCE_FOLDERS
from jobs.__main__ import module_of
from jobs.console.options import parse
from jobs.train.__main__ import main
from jobs.train.commands import configuration, options_types, plan_of, resume_command
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan, require_trusted_code
from mnist_lib.environment import code_version
from mnist_lib.errors import ModelError
from mnist_lib.model_file import trust
from mnist_lib.objects.local import LocalObjects
from mnist_lib.settings import options_of
from mnist_lib.store.opening import open_run
from tests.support.builders import builder_file
from tests.support.job import train
from tests.support.pictures import classes, write_folder

MODEL = "def small(image_shape, num_classes, path='x', width=3): ...\n"
NOTHING_RUN = (
    "error[E-USAGE] resume: nothing was run; check the printed command, its files and addresses, then paste it\n"
)


def stored(storage: Path, content: str, options_type: type[TrainOptions] = TrainOptions) -> Path:
    """Begin a run with this stored configuration."""
    storage.mkdir(exist_ok=True)
    opened = open_run(
        LocalObjects(storage), "r", dataset="mnist-mini", terms={}, configuration=content, command=options_type.COMMAND
    )
    with opened:
        return storage


def printed(storage: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that --resume prints, without the backslashes that end them."""
    assert main(["--resume=r", f"--storage={storage}", *arguments]) == 2
    stdout, stderr = capsys.readouterr()
    assert stderr == NOTHING_RUN
    return stdout.removesuffix("\n").split(" \\\n  ")


def pasted(text: str, folder: Path) -> list[str]:
    """Return the words that a shell makes of a command that begins with `python`."""
    script = f"python() {{ printf '%s\\0' python \"$@\"; }}\n{text}"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\0").split("\0")


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("dataset: /home/me/private", ["--dataset=/home/me/private"]),
        ("dataset: s3://bucket/private", ["--dataset=s3://bucket/private"]),
        ("{dataset: 'tfds:x', tfds_import: /later.py}", ["--dataset=tfds:x", "--tfds-import=/later.py"]),
        ("data_dir: /home/me/datasets", ["--data-dir=/home/me/datasets"]),
        ("{dataset: mnist, data_source: /home/me}", ["--dataset=mnist", "--data-source=/home/me"]),
        ("address: 10.0.0.9:6379", ["--address=10.0.0.9:6379"]),
        ("models: [keras, /x/evil.py:small]", ["--models=keras,/x/evil.py:small"]),
        (
            "{models: '/x/mine.py:small', model_arg: {path: /home/me/.profile}, hidden_units: 3, epochs: 5}",
            ["--models=/x/mine.py:small", "--model-arg=path=/home/me/.profile", "--hidden-units=3", "--epochs=5"],
        ),
        ("{epochs: 5, promote: if-better}", ["--epochs=5"]),
    ],
)
def test_w10_only_the_command_is_printed_with_each_file_and_address_on_a_line(
    content: str, flags: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = stored(tmp_path / "results", content)
    before = sorted(storage.rglob("*"))
    lines = printed(storage, capsys=capsys)
    assert lines == ["python -m jobs.train", "--run-name=r", *flags, f"--storage={storage}"]
    assert sorted(storage.rglob("*")) == before


def test_w10_the_storage_is_the_one_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(tmp_path / "results", "storage: /home/me/other")
    assert printed(storage, capsys=capsys)[2:] == [f"--storage={storage}"]
    monkeypatch.chdir(tmp_path)
    assert main(["--resume=r"]) == 2
    assert capsys.readouterr().out == "python -m jobs.train \\\n  --run-name=r\n"


def test_w10_no_file_is_read_that_a_stored_configuration_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is a pipe, so a command that reads one never ends."""
    fifo = tmp_path / "fifo.py"
    subprocess.run(["mkfifo", fifo], check=True)
    content = {"dataset": "tfds:x", "tfds_import": str(fifo), "models": f"{fifo}:f", "weights": {"a": str(fifo)}}
    storage = stored(tmp_path / "results", yaml.safe_dump(content))
    assert f"--tfds-import={fifo}" in printed(storage, capsys=capsys)


@pytest.mark.parametrize("name", sorted(options_of(TrainOptions).keys() - options_of(TrainOptions, "stored").keys()))
def test_w10_no_option_of_a_process_is_printed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    is_flag = isinstance(options_of(TrainOptions)[name].default, bool)
    storage = stored(tmp_path, f"{name}: {'true' if is_flag else 'x'}")
    if name == "trust":
        assert main(["--resume=r", f"--storage={storage}"]) == 7
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert "runs/r: trust: not accepted in a --config file" in stderr
    else:
        lines = printed(storage, "--trust", capsys=capsys)
        assert lines == ["python -m jobs.train", "--run-name=r", f"--storage={storage}"]


@pytest.mark.parametrize(
    "content",
    [
        *("epochs: [1", "epochs: x", "- 1", "\udcff", "x: &a 1\ny: *b", "[" * 1_000, "config: /x", "no_option: 1"),
        *('data_dir: "a\\nb"', 'data_dir: "\\e[2J"', "dataset: no-such", "dataset: ~nobody-here/x"),
    ],
)
def test_w10_a_damaged_configuration_is_refused_in_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = stored(tmp_path, "")
    (storage / "runs/r/config.yaml").write_bytes(content.encode(errors="surrogateescape"))
    assert main(["--resume=r", f"--storage={storage}"]) == 7
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert stderr.startswith(f"error[E-INTEGRITY] {storage}/runs/r: ")


@pytest.mark.parametrize(
    "value", ["/a b", "/$(touch canary)", "/'; touch canary; '", "/`touch canary`", "/\\", "/!x", "/*", "/#"]
)
def test_w10_a_shell_reads_each_value_as_one_word(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = stored(tmp_path / "results", yaml.safe_dump({"data_dir": value, "epochs": 7}))
    words = pasted(" \\\n  ".join(printed(storage, capsys=capsys)), tmp_path)
    flags = ["--run-name=r", "--epochs=7", f"--data-dir={value}", f"--storage={storage}"]
    assert words == ["python", "-m", "jobs.train", *flags]
    assert not (tmp_path / "canary").exists()


def test_w10_a_character_that_hides_others_is_printed_as_an_escape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = stored(tmp_path, yaml.safe_dump({"data_dir": "/a\u202eb"}))
    assert "'--data-dir=/a\\u202eb'" in printed(storage, capsys=capsys)


def test_no_secret_of_a_url_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = {"a": "https://me:pa-ss@host/x?sig=pa-ss", "b": "https://me:pa-ss@host"}
    content = {"dataset": "s3://me:pa-ss@bucket/x?sig=pa-ss", "model_arg": urls, "address": "me:pa-ss@host"}
    storage = stored(tmp_path, yaml.safe_dump(content))
    lines = printed(storage, capsys=capsys)
    assert "pa-ss" not in "".join(lines)
    assert "'--dataset=s3://***@bucket/x?***'" in lines


@pytest.mark.parametrize("options_type", options_types())
def test_the_printed_command_has_the_terms_of_the_run(
    options_type: type[TrainOptions],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "letters", classes("a", "b", pictures=2))
    Path("mine.py").write_text(MODEL)
    words = ["--models=scratch,mine.py:small", "--dataset=./letters", "--data-dir=.", "--address=10.0.0.1:6379"]
    words += ["--group-by=^a/(b[0-9]+)'s 100%", "--image-size=8x9", "--no-report", "--trust", "--learning-rate=1e-05"]
    words += (
        ["--vary=width=3,4", "--vary=path=a,b"]
        if "vary" in options_of(options_type)
        else ["--seeds=4,", "--model-arg=path=a,b"]
    )
    options: TrainOptions = parse("program", options_type, [*words, "--epochs=7"])
    terms = plan_of(options).terms(code_version(SOURCE_FOLDERS))
    content = yaml.safe_dump(configuration(options), sort_keys=False)
    opened = open_run(
        LocalObjects(tmp_path / "results"),
        "r",
        dataset="letters",
        terms=terms,
        configuration=content,
        command=options.COMMAND,
    )
    with opened:
        pass
    assert module_of(options.COMMAND.removeprefix("jobs.")).main(["--resume=r"]) == 2
    again = pasted(capsys.readouterr().out, tmp_path)
    assert again == resume_command(options, "r")
    assert again[:4] == ["python", "-m", options.COMMAND, "--run-name=r"]
    assert "--trust" not in again
    assert not any(word.startswith("--storage") for word in again)
    monkeypatch.chdir("/")
    given: TrainOptions = parse("program", options_type, again[3:])
    assert (plan_of(given).terms(code_version(SOURCE_FOLDERS)), given.address, given.report) == (
        terms,
        options.address,
        False,
    )


def test_options_beside_the_run_replace_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = stored(tmp_path, "address: 10.0.0.9:6379")
    lines = printed(storage, "--address=10.0.0.1:6379", "--run-name=other", capsys=capsys)
    assert lines == ["python -m jobs.train", "--run-name=r", "--address=10.0.0.1:6379", f"--storage={storage}"]


def test_the_run_of_a_search_is_resumed_by_its_own_command_and_by_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = pytest.importorskip("jobs.search.__main__")
    storage = stored(tmp_path, "{vary: {epochs: [1, 2]}, trials: 2}", search.SearchOptions)
    assert main(["--resume=r", f"--storage={storage}"]) == 2
    assert "expected a run of jobs.train, got one of jobs.search; use python -m jobs.search" in capsys.readouterr().err
    assert search.main(["--resume=r", f"--storage={storage}"]) == 2
    assert (
        "python -m jobs.search \\\n  --run-name=r \\\n  '--vary={\"epochs\": [1, 2]}' \\\n  --trials=2 "
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("run", ["no-such", "../r", "a/b", ""])
def test_an_unknown_run_is_refused(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--resume={run}", f"--storage={stored(tmp_path, '')}"]) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert "expected" in stderr


@pytest.mark.parametrize("kind", options_types())
def test_m2_code_of_a_configuration_file_is_trusted_together_with_its_arguments(
    kind: type[TrainOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    own, config = tmp_path / "mine.py", tmp_path / "config.yaml"
    own.write_text(MODEL)
    varies = "vary" in options_of(kind)
    vary = {"vary": {"width": [3, 4], "learning_rate": "0.1,0.2"}} if varies else {}

    def require_trusted(given: Mapping[str, Any], *flags: str) -> Plan:
        config.write_text(yaml.safe_dump({**vary, **given}))
        words = ["--config", str(config), *flags]
        plan = plan_of(parse(kind.COMMAND, kind, words))
        require_trusted_code(plan, words)
        return plan

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
    if varies:
        with pytest.raises(ModelError, match=r"--vary={'width': \[5, 6\]}"):
            require_trusted(varied)


@pytest.mark.slow
def test_w10_code_that_appears_after_the_check_is_not_run(tmp_path: Path) -> None:
    builder, canary, config = tmp_path / "later.py", tmp_path / "canary", tmp_path / "config.yaml"
    given = (f"--tfds-import={builder}", "--dataset=tfds:leaf_images", f"--data-dir={tmp_path}", "--models=scratch")
    builder_file(tmp_path, "LeafImages", fixed=True).rename(builder)
    code_of_builder = builder.read_text()
    config.write_text(yaml.safe_dump(configuration(parse("jobs.train", TrainOptions, given))))
    builder.unlink()

    def write_late() -> None:
        builder.write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n{code_of_builder}")

    timer = threading.Timer(3.0, write_late)
    timer.start()
    code, stdout, _ = train("--config", config, "--storage", tmp_path / "results", home=tmp_path)
    timer.join()
    assert (code, stdout) == (2, "")
    assert not canary.exists()
    assert not (tmp_path / ".config/mnist-jobs").exists()
