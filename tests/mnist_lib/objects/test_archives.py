"""Archives and arrays that anybody may have written: our own error, in bounded memory, whatever they declare."""

import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import MAX_MEMBERS, read_keras_weights, read_npz
from tests.support.memory import peak_bytes

LIMITS = {"a": 4_000, "b": 100}


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


GOOD = npz(a=np.arange(1_000, dtype=np.float32), b=np.arange(3, dtype=np.uint8))


def zipped(method: int, **members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return content.getvalue()


def claiming(size: int, method: int, compressed: bytes, crc: int = 0) -> bytes:
    """Return an archive whose only member `a.npy` claims a size."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, crc, len(compressed), size, 5, 0) + b"a.npy"
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 0, crc, len(compressed), size, *[5, 0, 0, 0, 0], 0, 0
    )
    entry += b"a.npy"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(compressed), 0)
    return local + compressed + entry + end


def header(text: str, data: bytes = b"") -> bytes:
    """Return a .npy file with this header."""
    padded = text.encode() + b" " * (118 - len(text)) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded + data


def test_arrays_are_read_as_they_were_written_also_empty_ones() -> None:
    arrays: dict[str, Any] = {"a": np.arange(1_000, dtype=np.float32).reshape(10, 100), "b": np.empty((0, 7), np.uint8)}
    read = read_npz(npz(**arrays), "x", LIMITS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
    scalar = read_npz(npz(a=np.float64(0.5)), "x", {"a": 8})["a"]
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
    setup = "from mnist_lib.objects.archives import read_npz\nfrom mnist_lib.errors import IntegrityError\n"
    setup += f"content = open({str(path)!r}, 'rb').read()\n"
    code = """
try:
    raise AssertionError(read_npz(content, "x", {"a": 4_000}))
except IntegrityError as error:
    assert str(error).startswith("x: ")
"""
    assert peak_bytes(setup, code) < 8_000_000


def test_arrays_that_are_too_large_together_are_refused_before_they_are_unpacked() -> None:
    content, limits = npz(a=np.zeros(10), b=np.zeros(10)), {"a": 80, "b": 80}
    assert [*read_npz(content, "x", limits, total=160)] == ["a", "b"]
    large = npz(a=np.zeros(50_000), b=np.zeros(50_000))
    with pytest.raises(IntegrityError, match=r"x: expected at most 500,000 bytes, got 800,\d+ unpacked ones"):
        read_npz(large, "x", dict.fromkeys("ab", 400_000), total=500_000)


def test_an_archive_with_more_members_than_any_of_ours_is_not_listed() -> None:
    many = zipped(zipfile.ZIP_STORED, **{f"m{number}": b"" for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(IntegrityError, match="expected a zip archive of at most 1,000 members, got more"):
        read_npz(many, "x", LIMITS)


@pytest.mark.parametrize(
    "shape",
    ["(-1,-1000)", "(True,1000)", "(0,10**30)", f"(0, {10**30},)", "(1,) * 100", f"({'1,' * 100})", "(1000.0,)"],
)
def test_an_array_with_an_impossible_shape_is_damaged(shape: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"[:117]
    with pytest.raises(IntegrityError, match="x: a: expected"):
        read_npz(zipped(zipfile.ZIP_STORED, a_npy=header(text, bytes(4_000))), "x", {"a": 4_000})


@pytest.mark.parametrize("descr", ["|O", "<U1", "<c8", "<M8[s]", "|V4", ">f4", "<f3", [("x", "<f4")]])
def test_an_array_of_anything_but_numbers_is_damaged(descr: object) -> None:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': (1,), }}"
    with pytest.raises(IntegrityError, match="x: a: expected"):
        read_npz(zipped(zipfile.ZIP_STORED, a_npy=header(text, bytes(4))), "x", {"a": 4_000})


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """Return variants of a file: bytes replaced, inserted and removed."""
    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for place, removed, inserted in edits:
            changed = changed[:place] + inserted + changed[place + removed :]
        return changed

    return st.lists(edit, min_size=1, max_size=6).map(apply)


def outcome(read: Callable[[], Any]) -> Any:
    """Return what is read, or the text of our own error; any other exception is a failure."""
    try:
        return read()
    except IntegrityError as error:
        return str(error)


@pytest.mark.fuzz
@given(mutated(GOOD))
def test_a_changed_archive_gives_arrays_within_their_limits_or_our_error(content: bytes) -> None:
    read = outcome(lambda: read_npz(content, "x", LIMITS))
    if isinstance(read, str):
        assert re.match("x: .*$", read)
    else:
        assert all(array.nbytes <= LIMITS[name] for name, array in read.items())


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (10, 5), }"


@pytest.mark.fuzz
@given(
    st.one_of(mutated(header(HEADER, bytes(200))), st.text("0123456789,()-*<>|fiuOTrue '", max_size=100).map(header))
)
def test_a_changed_header_of_an_array_gives_numbers_of_the_size_of_the_file_or_our_error(content: bytes) -> None:
    read = outcome(lambda: read_npz(zipped(zipfile.ZIP_STORED, a_npy=content), "x", {"a": 4_000}))
    if isinstance(read, str):
        assert re.match("x: a: .*$", read)
    else:
        assert read["a"].nbytes < len(content)


def keras_archive(weights: bytes, config: bytes = b'{"config": {"layers": [{"class_name": "Dense"}]}}') -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in (("config.json", config), ("metadata.json", b"{}"), ("model.weights.h5", weights)):
            archive.writestr(name, data)
    return content.getvalue()


def hdf5() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_group("layers/dense/vars").create_dataset("0", data=np.zeros((4, 2), np.float32))
        file["layers/dense/vars"].create_dataset("1", data=np.zeros(2, np.float32))
    return content.getvalue()


WEIGHTS = hdf5()


@pytest.mark.fuzz
@given(mutated(WEIGHTS))
def test_a_changed_file_of_weights_is_accepted_or_our_error(content: bytes) -> None:
    assert read_keras_weights(keras_archive(WEIGHTS), "x", ["Dense"], [32, 8]) == WEIGHTS
    read = outcome(lambda: read_keras_weights(keras_archive(content), "x", ["Dense"], [32, 8]))
    assert read == content or re.match("x: model.weights.h5: .*$", read)


ODD_CONFIGURATIONS = [
    *(b"null", b"[]", b'""', b"1e999", b"\xff", b"[" * 900 + b"]" * 900, b"[" * 10**5, b'{"config": []}'),
    *(b'{"config": {"layers": %b}}' % layers for layers in (b"null", b"{}", b"[null]", b'[{"class_name": 5}]')),
]


@pytest.mark.parametrize("config", ODD_CONFIGURATIONS)
def test_an_odd_configuration_of_a_keras_model_is_damaged(config: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^x: "):
        read_keras_weights(keras_archive(WEIGHTS, config), "x", ["Dense"], [32, 8])
