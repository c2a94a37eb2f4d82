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

from mnist_lib.data.prepared import folder as module
from mnist_lib.data.prepared.folder import on_this_node, remove_unused, shards_folder
from mnist_lib.data.prepared.writer import ShardWriter
from mnist_lib.data.shards import Images, in_memory, read_part
from mnist_lib.errors import DataError, DataReadError
from tests.support.shards import shards_of, write_shards

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 2, 1), np.uint8)


def write(folder: Path, images: NDArray[np.uint8] = IMAGES) -> Images:
    return write_shards(folder, images, per_shard=5)


def first_file(images: Images) -> Path:
    return shards_of(images).path(shards_of(images).names[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return write(tmp_path_factory.mktemp("shards"))


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


def test_a_shard_is_named_by_its_content_and_holds_a_limited_number_of_images(written: Images) -> None:
    shards = shards_of(written)
    assert shards.counts == (5, 5, 5, 5, 3)
    assert sorted(path.name for path in shards.folder.glob("?" * 64)) == sorted(shards.names)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2 * 6 + 3] ^= 1  # in the third image
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, 2 * 6 + 3)


def exchange(path: Path) -> None:
    another = next(other for other in path.parent.iterdir() if other.name != path.name)
    path.write_bytes(another.read_bytes()[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "got a damaged one at 2; run"),
        (exchange, "got a damaged one at 2"),
        (cut, "got a shorter file"),
        (Path.unlink, "got No such file"),
    ],
    ids=["flipped", "exchanged", "cut", "missing"],
)
def test_d10_no_wrong_pixels_are_returned(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    images = write(tmp_path)
    damage(first_file(images))
    with pytest.raises(DataReadError, match=re.escape(str(first_file(images)))):  # in memory, of any image
        np.asarray(in_memory(images)[[22]])
    damage(first_file(images := write(tmp_path)))
    assert np.array_equal(np.asarray(images[5:]), IMAGES[5:])
    with pytest.raises(DataReadError, match=message):
        np.asarray(images[[2, 9]])
    assert not shards_of(images).is_complete()  # so the next run prepares the images again


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
    images = write_shards(tmp_path, pixels, per_shard=300)
    command = [sys.executable, "-c", READ_WITH_LITTLE_MEMORY]
    done = subprocess.run(command, input=pickle.dumps(images), capture_output=True)
    assert done.stdout.decode().strip() == str(pixels[:, 0, 0, 0].sum(dtype=int))
    assert b"Unable to allocate 95.4 MiB" in done.stderr  # so the limit is a limit


def test_d9_too_little_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 1,000\.00 GB of free space for images, got .* GB; free some"):
        ShardWriter(tmp_path, (1_000, 1_000, 1), 1_000_000)
    assert not [*tmp_path.iterdir()]


def test_d10_a_disk_that_becomes_full_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(DataError, match="expected more free space for images, got none; free some"):
        write(tmp_path / "shards")
    assert not [*(tmp_path / "shards").iterdir()]


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (0, time.time() - 2 * module.UNUSED_SECONDS))


def end_protection(folder: Path) -> None:
    """Do what the kernel does when this process ends."""
    os.close(module._used.pop(folder))


def test_only_old_shards_that_no_process_uses_are_removed(tmp_path: Path) -> None:
    images, other = write(tmp_path), write(tmp_path, IMAGES[::-1])
    end_protection(tmp_path)
    remove_unused(tmp_path)
    assert shards_of(images).is_complete()  # they are not old
    script = (
        "import pickle, sys; from mnist_lib.data.prepared.folder import protect_images;"
        "protect_images(pickle.load(sys.stdin.buffer)); print(flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(images, process.stdin)
    process.stdin.flush()
    process.stdout.readline()
    (tmp_path / ".mnist.npz.0").touch()  # as a killed process leaves it
    age(tmp_path)
    remove_unused(tmp_path)
    assert (shards_of(images).is_complete(), shards_of(other).is_complete()) == (True, False)
    process.kill()
    process.communicate()
    remove_unused(tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["another.used", "another.npz", "another.pictures"])
def test_nothing_is_removed_if_it_is_not_known_what_another_user_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    images = write(tmp_path)
    end_protection(tmp_path)
    (tmp_path / name).mkdir()  # cannot be read, also by an administrator
    age(tmp_path)
    remove_unused(tmp_path)
    assert shards_of(images).is_complete()
    (tmp_path / name).rmdir()
    (tmp_path / "damaged.npz").touch()
    remove_unused(tmp_path)
    assert not shards_of(images).is_complete()


def test_a_node_gets_the_files_once_continues_where_it_was_and_refuses_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(module, "FETCH_BYTES", 8)
    there = write(tmp_path / "there")
    missing = Images(replace(shards_of(there), folder=tmp_path / "nowhere/.prepared"), there.rows)
    asked: list[tuple[str, int]] = []

    def read(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
        asked.append((path.name, offset))
        if len(asked) == 3:
            raise ConnectionError("the link is cut")
        return read_part(tmp_path / "there" / path.name, offset, size)

    assert on_this_node(there, read) is there
    with pytest.raises(DataError, match="the link is cut"):
        on_this_node(missing, read)
    fetched = on_this_node(missing, read)
    assert np.array_equal(np.asarray(fetched), IMAGES)
    assert asked[2] == asked[3] != asked[0]
    count = len(asked)
    end_protection(shards_folder())
    age(shards_folder())
    assert np.array_equal(np.asarray(on_this_node(missing, read)), IMAGES)  # nothing is removed in between
    assert len(asked) == count
    path = shards_folder() / shards_of(there).names[0]
    path.unlink()
    assert on_this_node(missing, None) is missing  # a node does not ask itself
    with pytest.raises(DataError, match=r"expected the same bytes as in .*, got others; run again"):
        on_this_node(missing, lambda path, offset, size: bytes(size))
    assert not path.exists()
