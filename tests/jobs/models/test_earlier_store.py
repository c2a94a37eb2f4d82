"""A storage that a version of the program before the first release has written."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.models.__main__ import main as models
from jobs.predict.__main__ import main as predict
from jobs.train.__main__ import main as train
from mnist_lib.store.versions import EARLIER_FOLDERS


@pytest.mark.parametrize("folder", EARLIER_FOLDERS)
@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        *((models, [name]) for name in ("list", "champion", "history", "verify")),
        (models, ["show", "scratch@1"]),
        (models, ["gc", "--keep=1"]),
        (predict, ["five.png"]),
        (train, ["--address=local"]),
    ],
)
def test_s12_a_store_of_an_earlier_layout_is_refused_in_one_line_and_unchanged(
    folder: str,
    main: Callable[[Sequence[str]], int],
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = tmp_path / f"store/models/scratch/{folder}/00000001.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"{}")
    assert main([*arguments, f"--storage={tmp_path / 'store'}"]) == 7
    captured = capsys.readouterr()
    where = record.parent
    assert captured.err == (
        f"error[E-SCHEMA] {where}: expected a storage of this format, got one of an earlier version of this program;"
        " name another with --storage, and train again\n"
    )
    assert captured.out == ""
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == [record]
