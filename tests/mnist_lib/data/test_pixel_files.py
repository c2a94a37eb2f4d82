"""Images are read as they were written, or reading them is an error; files are removed only if nobody uses them."""

import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_lib.data.images import NAME_BYTES, Images, PixelWriter, in_memory, read_part
from mnist_lib.data.prepared import folder as module
from mnist_lib.data.prepared.folder import on_this_node, prepared_folder, remove_unused
from mnist_lib.errors import DataError, DataReadError
from tests.support.pixel_files import file_of, write_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 2, 1), np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return write_pixels(tmp_path_factory.mktemp("pixels"), IMAGES)


@given(rows=st.lists(st.integers(0, len(IMAGES) - 1), max_size=60), first=st.integers(0, 9))
def test_any_rows_are_read_in_their_order_from_files_and_from_memory(
    written: Images, rows: list[int], first: int
) -> None:
    index = np.array(rows, np.int64)
    for images in (written, in_memory(written), pickle.loads(pickle.dumps(written))):
        assert np.array_equal(np.asarray(images[index]), IMAGES[index])
        part = images[first:]
        assert (part.shape, part.dtype, len(part)) == (IMAGES[first:].shape, np.uint8, len(IMAGES) - first)
        assert np.array_equal(np.asarray(part[index % len(part)]), IMAGES[first:][index % len(part)])
        assert np.array_equal(part[1], IMAGES[first + 1])
        assert np.array_equal([*part], IMAGES[first:])


def test_several_indices_are_refused(written: Images) -> None:
    with pytest.raises(TypeError, match="expected one index"):
        written[..., 0]


def test_images_that_are_appended_follow_those_of_before_which_are_not_written_again(tmp_path: Path) -> None:
    before = write_pixels(tmp_path, IMAGES)
    path = file_of(before).path
    inode = path.stat().st_ino
    path.write_bytes(path.read_bytes() + b"\1" * 7)  # of a preparation that was killed
    with PixelWriter(tmp_path, (3, 2, 1), 2, file_of(before)) as writer:
        writer.add(IMAGES[:2] // 2)
        after = Images(writer.finish(), np.arange(len(writer)))
    assert (file_of(after).path, path.stat().st_ino) == (path, inode)
    assert path.stat().st_size == file_of(after).bytes == NAME_BYTES + 25 * 6
    expected = np.concatenate((IMAGES, IMAGES[:2] // 2))
    for images in (after, before, in_memory(after), in_memory(before)):
        assert np.array_equal(np.asarray(images), expected[: len(images)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[NAME_BYTES + 2 * 6 + 3] ^= 1  # in the third image
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def exchange(path: Path) -> None:
    path.write_bytes(file_of(write_pixels(path.parent, IMAGES[::-1])).path.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [(exchange, "got another file"), (cut, "got a shorter file"), (Path.unlink, "got No such file")],
    ids=["exchanged", "cut", "missing"],
)
@pytest.mark.parametrize("is_streamed", [True, False])
def test_d10_a_file_that_is_cut_exchanged_or_missing_is_an_error(
    tmp_path: Path, damage: Callable[[Path], None], message: str, is_streamed: bool
) -> None:
    images = write_pixels(tmp_path, IMAGES)
    path = file_of(images).path
    assert file_of(images).is_complete()
    damage(path)
    with pytest.raises(DataReadError, match=f"{re.escape(str(path))}: expected the images of a dataset, {message}"):
        np.asarray((images if is_streamed else in_memory(images))[[2, 22]])
    assert not file_of(images).is_complete()  # so the next run prepares the images again


def test_d10_flipped_bytes_are_noticed_when_images_are_held_in_memory(tmp_path: Path) -> None:
    images = write_pixels(tmp_path, IMAGES)
    flip(file_of(images).path)
    assert np.array_equal(np.asarray(images[3:]), IMAGES[3:])  # streamed
    with pytest.raises(DataReadError, match="expected the images that were written, got a damaged one; run"):
        np.asarray(in_memory(images)[[22]])  # whichever image is asked for
    assert not file_of(images).is_complete()  # so the next run prepares the images again


READ_WITH_LITTLE_MEMORY = """
import pickle, resource, sys
import numpy as np
images = pickle.load(sys.stdin.buffer)
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()  # data and stack
resource.setrlimit(resource.RLIMIT_DATA, (used + 40_000_000, resource.RLIM_INFINITY))
order = np.random.default_rng(0).permutation(len(images))
print(sum(int(np.asarray(images[part])[:, 0, 0, 0].sum(dtype=int)) for part in np.array_split(order, 50)))
np.asarray(images)
"""


def test_images_are_read_with_less_memory_than_they_take(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1_000, 100, 100, 10), np.uint8)  # 100 MB
    images = write_pixels(tmp_path, pixels)
    command = [sys.executable, "-c", READ_WITH_LITTLE_MEMORY]
    done = subprocess.run(command, input=pickle.dumps(images), capture_output=True)
    assert done.stdout.decode().strip() == str(pixels[:, 0, 0, 0].sum(dtype=int))
    assert b"Unable to allocate 95.4 MiB" in done.stderr  # so the limit is a limit


def test_d9_too_little_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 1,000\.00 GB of free space for images, got .* GB; free some"):
        PixelWriter(tmp_path, (1_000, 1_000, 1), 1_000_000)
    assert not [*tmp_path.iterdir()]


def test_d10_a_disk_that_becomes_full_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(DataError, match="expected more free space for images, got none; free some"):
        write_pixels(tmp_path / "pixels", IMAGES)
    assert not [*(tmp_path / "pixels").glob("*.pixels")]


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (0, time.time() - 2 * module.UNUSED_SECONDS))


def test_only_old_files_that_nobody_reads_are_removed(tmp_path: Path) -> None:
    images, other = write_pixels(tmp_path, IMAGES), write_pixels(tmp_path, IMAGES[::-1])
    remove_unused(tmp_path)
    assert file_of(images).is_complete()  # they are not old
    for name in (".mnist.index.0", "0" * 64, "f.pictures", "f.npz"):  # of a killed process, or of earlier versions
        (tmp_path / name).touch()
    age(tmp_path)
    np.asarray(images[:1])  # as a lane does that streams them
    remove_unused(tmp_path)
    assert [*tmp_path.iterdir()] == [file_of(images).path]
    (tmp_path / "named.index").write_text(f"sha256\tsource\t{file_of(images).path.name}\n")
    age(tmp_path)
    remove_unused(tmp_path)
    assert file_of(images).is_complete()
    assert not file_of(other).is_complete()


def test_a_node_gets_a_file_once_goes_on_where_it_was_and_then_gets_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(module, "FETCH_BYTES", 60)
    there = write_pixels(tmp_path / "there", IMAGES)

    def missing(images: Images) -> Images:
        return Images(replace(file_of(images), folder=tmp_path / "nowhere/.prepared"), images.rows)

    asked: list[tuple[str, int, int]] = []

    def read(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
        asked.append((path.name, offset, size))
        if len(asked) == 3:
            raise ConnectionError("the link is cut")
        return read_part(tmp_path / "there" / path.name, offset, size)

    assert on_this_node(there, read) is there
    with pytest.raises(DataError, match="the link is cut"):
        on_this_node(missing(there), read)
    assert np.array_equal(np.asarray(on_this_node(missing(there), read)), IMAGES)
    name = file_of(there).path.name
    assert asked == [(name, 0, 60), (name, 60, 60), (name, 120, 50), (name, 120, 50)]
    age(prepared_folder())
    assert np.array_equal(np.asarray(on_this_node(missing(there), read)), IMAGES)  # nothing is removed in between
    assert len(asked) == 4
    with PixelWriter(tmp_path / "there", (3, 2, 1), 1, file_of(there)) as writer:
        writer.add(IMAGES[:1])
        more = Images(writer.finish(), np.array([23, 1]))
    assert np.array_equal(np.asarray(on_this_node(missing(more), read)), IMAGES[:2])
    assert asked[4:] == [(name, NAME_BYTES + 23 * 6, 6)]
    (prepared_folder() / name).unlink()
    absent = missing(there)
    assert on_this_node(absent, None) is absent  # a node does not ask itself
