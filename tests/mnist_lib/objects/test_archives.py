"""Archives that are damaged, or hold more than they should: an error of ours in little memory."""

import bz2
import contextlib
import io
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import Arrays, read_npz
from tests.support.memory import peak_bytes


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


GOOD = npz(a=np.arange(1_000, dtype=np.float32), b=np.arange(3, dtype=np.uint8))


def claiming(size: int, method: int, compressed: bytes, crc: int = 0) -> bytes:
    """Return an archive whose only member `a.npy` claims a size."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, crc, len(compressed), size, 5, 0) + b"a.npy"
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 0, crc, len(compressed), size, *[5, 0, 0, 0, 0], 0, 0
    )
    entry += b"a.npy"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(compressed), 0)
    return local + compressed + entry + end


def read(content: bytes, limit: int = 10_000) -> Arrays:
    with reading("x"):
        return read_npz(content, limit)


def test_arrays_are_read_as_they_were_written_also_empty_ones() -> None:
    arrays: dict[str, Any] = {"a": np.arange(1_000, dtype=np.float32).reshape(10, 100), "b": np.empty((0, 7), np.uint8)}
    found = read(npz(**arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    scalar = read(npz(a=np.float64(0.5)))["a"]
    assert (scalar.shape, float(scalar)) == ((), 0.5)


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, 9)[2:-4]


@pytest.mark.parametrize(
    ("method", "compress", "size"),
    [(8, deflated, 1_000), (8, deflated, 4_000_000_000), (12, bz2.compress, 1_000), (14, lzma.compress, 1_000)],
    ids=["deflate", "deflate that says so", "bzip2", "lzma"],
)
def test_a_member_that_holds_more_than_it_should_is_refused_in_little_memory(
    method: int, compress: Callable[[bytes], bytes], size: int, tmp_path: Any
) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(claiming(size, method, compress(bytes(1 << 25))))
    setup = f"""
from mnist_lib.documents import reading
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import read_npz
content = open({str(path)!r}, "rb").read()
"""
    code = """
try:
    with reading("x"):
        raise AssertionError(read_npz(content)["a"].shape)
except IntegrityError as error:
    assert "AssertionError" not in str(error), error
"""
    assert peak_bytes(setup, code) < 8_000_000


def test_arrays_that_are_too_large_together_are_refused_before_they_are_unpacked() -> None:
    content = npz(a=np.zeros(50_000), b=np.zeros(50_000))
    assert [*read(content, 1_000_000)] == ["a", "b"]
    with pytest.raises(IntegrityError, match=r"x: expected .*: expected at most 500,000 unpacked bytes, got 800,\d+"):
        read(content, 500_000)


def test_an_array_of_objects_is_not_unpickled() -> None:
    with pytest.raises(IntegrityError, match=r"x: expected .*: Object arrays cannot be loaded"):
        read(npz(a=np.array([print], object)))


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """Return variants of a file: bytes replaced, inserted and removed."""
    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for place, removed, inserted in edits:
            changed = changed[:place] + inserted + changed[place + removed :]
        return changed

    return st.lists(edit, min_size=1, max_size=6).map(apply)


@pytest.mark.fuzz
@given(mutated(GOOD))
def test_a_changed_archive_gives_arrays_or_our_error(content: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        read(content)
