"""A preparation that uses what earlier ones have read equals one from nothing, also after kills."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mnist_lib import wording
from mnist_lib.data import folder as reading
from mnist_lib.data.prepare import prepare
from mnist_lib.data.prepared import journal, writer
from mnist_lib.data.prepared.folder import shards_of
from mnist_lib.data.prepared.journal import JOURNAL_SUFFIX, OPEN_SUFFIX, Journal
from mnist_lib.data.prepared.progress import ProgressFile
from mnist_lib.data.request import DataRequest
from mnist_lib.data.split import COLUMNS, Dataset
from mnist_lib.errors import DataError
from mnist_lib.pictures.sandbox import Sandbox, Sandboxes
from tests.support.pictures import classes, noise, read, write_folder

ROOT = Path(__file__).parents[3]
IMAGES_PER_SHARD = 20


class LoggingSandboxes(Sandboxes):
    """Sandboxes that append one byte to a file when a result arrives."""

    log: Path

    def map(self, function: Any, items: Any) -> Iterator[Any]:
        with self.log.open("ab", buffering=0) as file:
            for result in super().map(function, items):
                file.write(b"x")
                yield result


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Callable[[], tuple[int, int]]:
    """Make shards small, and return a function that returns how many sizes and images were read since its last call."""
    counts = {"shape_of": 0, "read_file": 0}

    def counting_map(function: Any, items: Sequence[Path]) -> list[Any]:
        counts[function.func.__name__] += len(items)
        return sandbox.map(function, items)

    def since() -> tuple[int, int]:
        before = counts["shape_of"], counts["read_file"]
        counts.update(dict.fromkeys(counts, 0))
        return before

    monkeypatch.setattr(reading, "Sandboxes", lambda files: contextlib.nullcontext(SimpleNamespace(map=counting_map)))
    monkeypatch.setattr(writer, "MAX_SHARD_BYTES", IMAGES_PER_SHARD * 64)
    return since


def require_equal(dataset: Dataset, other: Dataset) -> None:
    """Compare two datasets in every column and every field."""
    for column in COLUMNS:
        assert np.array_equal(np.asarray(getattr(dataset, column)), np.asarray(getattr(other, column))), column
    for name in {field.name for field in fields(Dataset)} - {*COLUMNS}:
        assert getattr(dataset, name) == getattr(other, name), name


def from_nothing(folder: Path, data_dir: Path, **options: Any) -> Dataset:
    """Return the dataset in a folder, prepared without what was read before."""
    shutil.rmtree(data_dir, ignore_errors=True)
    return prepare(DataRequest(dataset=f"{folder}/", data_dir=data_dir, **options))


def test_images_of_a_shape_that_the_pictures_led_to_are_not_prepared_again_for_a_request_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {**classes("a"), **classes("b", size=(8, 9)), **classes("c", size=(9, 8))}
    folder = write_folder(tmp_path / "f", pictures)
    first = read(folder)
    assert first.notices == (
        "pictures of 3 sizes are resized to 9 x 9 and cropped; choose another size with --image-size",
    )
    prepared = 0
    read_folder = reading.read_folder

    def counting_read(*arguments: Any) -> Dataset:
        nonlocal prepared
        prepared += 1
        return read_folder(*arguments)

    monkeypatch.setattr(reading, "read_folder", counting_read)
    require_equal(read(folder, image_size=(9, 9), channels=1), first)
    assert prepared == 0
    assert read(folder, image_size=(9, 9), channels=3).image_shape == (9, 9, 3)
    assert read(folder).image_shape == (9, 9, 1)  # the pictures alone, again
    assert prepared == 2


def test_a_preparation_reads_only_what_is_new_and_equals_one_from_nothing(
    tmp_path: Path, reads: Callable[[], tuple[int, int]]
) -> None:
    options: dict[str, Any] = {"group_by": r"(.)\.png"}
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=70))

    def require_law(sizes: int, images: int, **options: object) -> Dataset:
        reads()
        dataset = read(folder, **options)
        assert reads() == (sizes, images)
        require_equal(dataset, from_nothing(folder, tmp_path / "nothing", **options))
        return dataset

    require_law(140, 140)
    write_folder(folder, {"a/new.png": noise(7_000), "b/copy.png": noise(3), "b/broken.png": b"x"})
    added = require_law(3, 3)
    assert len(added.unreadable) == 1
    noise(7_001).save(folder / "a/5.png")
    (folder / "b/7.png").rename(folder / "a/renamed.png")
    for number in range(10, 60):
        (folder / f"b/{number}.png").unlink()
    require_law(3, 3)  # the broken one, too
    (folder / "a/6.png").unlink()
    require_law(1, 1)
    require_law(1, 1, **options)  # groups
    write_folder(folder, {"a/large.png": noise(7_002, (9, 9))})
    require_law(2, 2, **options)  # of another size than most, and the broken one
    (folder / "a/large.png").unlink()
    require_law(1, 1)
    require_law(1, 142 - 50, image_size=(4, 16))  # as many bytes
    require_law(1, 142 - 50)
    known = Journal(next((tmp_path / "prepared/.prepared").glob(f"*{JOURNAL_SUFFIX}")))
    assert sum(len(shard.images) for shard in known.shards) == 141 - 50


def test_many_small_additions_leave_few_files(tmp_path: Path, reads: Callable[[], tuple[int, int]]) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=25))
    read(folder)
    reads()
    for number in range(12):
        write_folder(folder, {f"a/new{number}.png": noise(7_000 + number)})
        dataset = read(folder)
        assert reads() == (1, 1)
    shards = shards_of(dataset.images)
    assert shards is not None
    assert len(shards.names) <= 2 * (62 // IMAGES_PER_SHARD + 1)


def test_a_dataset_knows_that_its_images_are_among_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prepared = write_folder(tmp_path / "f", classes("a", "b")), tmp_path / "prepared/.prepared"
    assert read(folder).reusable
    shutil.rmtree(prepared)
    prepared.touch()  # in place of a folder without the right to write, which root has
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert [read(folder).reusable, read(folder).reusable] == [False, False]


def test_a_waiting_process_sees_how_many_pictures_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = DataRequest(dataset=str(write_folder(tmp_path / "f", classes("a", "b"))), data_dir=tmp_path)
    monkeypatch.setattr(wording, "REPORT_SECONDS", 0)
    file = ProgressFile(request)
    shown = [file.read()]

    def progress(text: str) -> None:
        file.write(text)
        shown.append(file.read())

    prepare(request, progress)
    assert shown[0] is None
    assert [str(text).partition(",")[0] for text in (shown[60], shown[61], shown[120])] == [
        "59 of 60 sizes",
        "0 of 60 pictures",
        "59 of 60 pictures",
    ]
    assert [text.share for text in shown if text][-2:] == [59 / 60, 1]
    file.remove()
    assert file.read() is None
    assert not [*(tmp_path / ".prepared").glob("*.part")]
    assert ProgressFile(DataRequest(data_dir=tmp_path)).path is None  # a dataset of the catalog


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 70)


@pytest.mark.parametrize("damage", [Path.exists, flip, cut, Path.unlink], ids=["none", "flipped", "cut", "missing"])
@pytest.mark.parametrize("suffix", [JOURNAL_SUFFIX, OPEN_SUFFIX])
def test_after_a_full_disk_only_intact_images_are_used(
    tmp_path: Path,
    reads: Callable[[], tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    suffix: str,
) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=15))
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda descriptor: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
        full.setattr(journal, "FLUSH_SECONDS", 0)
        with pytest.raises(DataError, match="expected more free space for images, got none; free some"):
            read(folder)
    reads()
    damage(next((tmp_path / "prepared/.prepared").glob(f"*{suffix}")))
    dataset = read(folder)
    assert reads()[1] in (range(11, 31) if damage is not Path.exists else [11])  # 19 of 20 images had been noted
    require_equal(dataset, from_nothing(folder, tmp_path / "nothing"))
    assert not [*(tmp_path / "prepared/.prepared").glob(f"*{OPEN_SUFFIX}")]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from mnist_lib.data import folder
from mnist_lib.data.prepared import journal, writer
from mnist_lib.pictures import sandbox
from tests.mnist_lib.data.test_preparing import LoggingSandboxes
from tests.support.pictures import read

pictures, log, kills = Path(sys.argv[1]), Path(sys.argv[2]), 0
LoggingSandboxes.log, folder.Sandboxes, sandbox.MIN_FILES_PER_PROCESS = log, LoggingSandboxes, 10**9
journal.FLUSH_SECONDS, writer.MAX_SHARD_BYTES = 0.02, 700 * 64
log.touch()
ended = False
while not ended:
    at = log.stat().st_size + random.randrange(2_500) if kills < 4 else 10**9
    process = os.fork()
    if not process:
        read(pictures)
        os._exit(0)
    while not ended and log.stat().st_size < at:
        ended = os.waitpid(process, os.WNOHANG) == (process, 0)
        time.sleep(0.001)
    if not ended:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        kills += 1
print(kills)
"""


@pytest.mark.slow
def test_a_killed_preparation_continues_where_it_was(tmp_path: Path, reads: Callable[[], tuple[int, int]]) -> None:
    count, log = 3_000, tmp_path / "log"
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=count // 2))
    command = [sys.executable, "-c", KILLED, str(folder), str(log)]
    kills = int(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    assert kills
    again = log.stat().st_size - 2 * count
    assert 0 <= again <= 400 * kills, (again, kills)
    killed = read(folder)
    assert reads() == (0, 0)
    require_equal(killed, from_nothing(folder, tmp_path / "nothing"))
