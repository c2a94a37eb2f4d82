"""A preparation that uses what earlier ones have read equals one from nothing, also after kills."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib import wording
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.images import NAME_BYTES, Images, read_part
from mnist_lib.data.prepare import prepare
from mnist_lib.data.prepared import index
from mnist_lib.data.prepared.folder import ProgressFile, on_this_node
from mnist_lib.data.reading import folder as reading
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataError
from mnist_lib.pictures.sandbox import Sandbox
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, read, write_folder
from tests.support.pixel_files import file_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Callable[[], tuple[int, int]]:
    """Return a function that returns how many sizes and images were read since its last call."""
    counts = {"shape_of": 0, "read_file": 0}

    def counting_map(function: Any, items: Sequence[Path]) -> list[Any]:
        counts[getattr(function, "func", function).__name__] += len(items)
        return sandbox.map(function, items)

    def since() -> tuple[int, int]:
        before = counts["shape_of"], counts["read_file"]
        counts.update(dict.fromkeys(counts, 0))
        return before

    monkeypatch.setattr(reading, "Sandboxes", lambda files: contextlib.nullcontext(SimpleNamespace(map=counting_map)))
    return since


def require_equal(dataset: Dataset, other: Dataset) -> None:
    """Compare two datasets in every column and every field."""
    for column, values in vars(dataset.table).items():
        assert np.array_equal(np.asarray(values), np.asarray(getattr(other.table, column))), column
    for name in {field.name for field in fields(Dataset)} - {"table"}:
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
    assert first.report.notices == (
        "pictures of 3 sizes are resized to 9 x 9 and cropped; choose another size with --image-size",
    )
    prepared = 0
    decode_folder = reading.decode_folder

    def counting_read(*arguments: Any) -> Any:
        nonlocal prepared
        prepared += 1
        return decode_folder(*arguments)

    monkeypatch.setattr(reading, "decode_folder", counting_read)
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
    assert len(added.report.unreadable) == 1
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


def written_bytes() -> int:
    """Return how many bytes this process has written so far."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def test_twenty_more_pictures_write_and_send_only_their_images_and_the_index(
    tmp_path: Path, reads: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"image_size": (100, 100)}
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=300))
    begin = written_bytes()
    before = read(folder, **options)
    assert written_bytes() - begin > 600 * 10_000
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "node"))
    sent = list[int]()

    def send(dataset: Dataset) -> None:
        assert isinstance(dataset.table.images, Images)
        elsewhere = replace(file_of(dataset.table.images), folder=tmp_path / "elsewhere/.prepared")

        def read_there(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
            sent.append(size)
            return read_part(tmp_path / "prepared/.prepared" / path.name, offset, size)

        there = on_this_node(Images(elsewhere, dataset.table.images.rows), read_there)
        assert np.array_equal(np.asarray(there), np.asarray(dataset.table.images))

    send(before)
    write_folder(folder, {f"a/new{number}.png": noise(7_000 + number) for number in range(20)})
    sent.clear()
    reads()
    begin = written_bytes()
    after = read(folder, **options)
    written = written_bytes() - begin
    assert reads() == (20, 20)
    (index,) = (tmp_path / "prepared/.prepared").glob("*.index")
    assert index.stat().st_size < 620 * 200
    assert 20 * 10_000 < written < 20 * 10_000 + index.stat().st_size + 10_000
    send(after)
    assert sum(sent) == 20 * 10_000


def test_a_file_of_which_less_than_half_is_used_is_written_anew(
    tmp_path: Path, reads: Callable[[], tuple[int, int]]
) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b", pictures=30))
    before = read(folder)
    pixels = np.asarray(before.table.images)
    for number in range(15):
        (folder / f"a/{number}.png").unlink()
        (folder / f"b/{number}.png").unlink()
    half = read(folder)
    assert file_of(half.table.images).path == file_of(before.table.images).path
    (folder / "a/15.png").unlink()
    write_folder(folder, {"b/new.png": noise(7_000)})
    reads()
    after = read(folder)
    assert reads() == (1, 30)
    assert file_of(after.table.images).path != file_of(before.table.images).path
    assert file_of(after.table.images).path.stat().st_size == NAME_BYTES + 30 * 64
    require_equal(after, from_nothing(folder, tmp_path / "nothing"))
    assert np.array_equal(np.asarray(before.table.images), pixels)  # a run that has begun before goes on


def test_a_corrected_label_prepares_no_image_again(tmp_path: Path, reads: Callable[[], tuple[int, int]]) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    before = read(folder)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared/.prepared").glob("*.index")}
    reads()
    correct(folder, correction(noise(3), "b"))
    after = read(folder)
    assert reads() == (0, 0)
    assert after.fingerprint != before.fingerprint
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_dataset_knows_that_its_images_are_among_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prepared = write_folder(tmp_path / "f", classes("a", "b")), tmp_path / "prepared/.prepared"
    assert read(folder).report.reusable
    shutil.rmtree(prepared)
    prepared.touch()  # in place of a folder without the right to write, which root has
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert [read(folder).report.reusable, read(folder).report.reusable] == [False, False]


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
    assert not [*(tmp_path / ".prepared").glob("tmp*")]
    assert ProgressFile(DataRequest(data_dir=tmp_path)).path is None  # a dataset of the catalog


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def exchange(path: Path) -> None:
    path.write_bytes(b"0" * path.stat().st_size)


@pytest.mark.parametrize("damage", [cut, exchange, Path.unlink], ids=["cut", "exchanged", "missing"])
@pytest.mark.parametrize("suffix", [".pixels", ".index"])
def test_d10_a_damaged_preparation_is_not_used_and_prepared_again(
    tmp_path: Path, reads: Callable[[], tuple[int, int]], damage: Callable[[Path], object], suffix: str
) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    read(folder)
    reads()
    damage(next((tmp_path / "prepared/.prepared").glob(f"*{suffix}")))
    after = read(folder)
    assert reads() == (60, 60)
    require_equal(read(folder), after)
    assert reads() == (0, 0)
    require_equal(after, from_nothing(folder, tmp_path / "nothing"))


def test_d10_after_a_full_disk_the_images_of_before_are_used(
    tmp_path: Path, reads: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    file = file_of(read(folder).table.images)
    write_folder(folder, {"a/new.png": noise(7_000)})
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda descriptor: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
        with pytest.raises(DataError, match="expected more free space for images, got none; free some"):
            read(folder)
    assert file.path.stat().st_size == file.bytes
    reads()
    after = read(folder)
    assert reads() == (1, 1)
    require_equal(after, from_nothing(folder, tmp_path / "nothing"))


KILLED = """
import os, signal, sys
from pathlib import Path
from mnist_lib.data.images import PixelWriter
from tests.support.pictures import read

add = PixelWriter.add
left = int(sys.argv[2])

def add_or_die(writer, images):
    global left
    add(writer, images)
    left -= 1
    if not left:
        writer._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

PixelWriter.add = add_or_die
read(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_preparation_after_killed_ones_equals_one_from_nothing(
    tmp_path: Path, reads: Callable[[], tuple[int, int]]
) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))

    def kill(images: int) -> None:
        command = [sys.executable, "-c", KILLED, str(folder), str(images)]
        assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL

    kill(40)
    before = read(folder)
    assert reads() == (60, 60)
    write_folder(folder, {f"a/new{number}.png": noise(7_000 + number) for number in range(20)})
    kill(15)
    path = file_of(before.table.images).path
    assert path.stat().st_size == NAME_BYTES + 75 * 64
    (folder / "a/new3.png").unlink()
    after = read(folder)
    assert reads() == (19, 19)
    assert file_of(after.table.images).path == path
    require_equal(after, from_nothing(folder, tmp_path / "nothing"))


def test_an_index_with_the_columns_of_another_release_is_not_used(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    first = read(folder)
    (path,) = (tmp_path / "prepared/.prepared").glob("*.index")
    arrays, source, pixels = index._read_arrays(path)
    index._write_arrays(path, source, {**arrays, "part": arrays["splits"]}, pixels)
    assert index.read_index("f", path) is None
    require_equal(read(folder), first)
