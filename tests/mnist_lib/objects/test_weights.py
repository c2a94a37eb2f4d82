"""Files of weights are read as numbers: damaged and hostile ones are refused."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib import read_weights
from mnist_lib.errors import ModelError
from mnist_lib.models.pretrained import Pretrained, WeightsFile
from mnist_lib.objects.archives import FORMATS, KERAS_WEIGHTS
from tests.support.memory import peak_bytes

ARRAYS: dict[str, NDArray[Any]] = {"one": np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4), "two": np.arange(1, 6)}


def hdf5(arrays: dict[str, NDArray[Any]] = ARRAYS, **options: str) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"layers/{name}", data=array, **options)
    return content.getvalue()


def keras_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr(KERAS_WEIGHTS, hdf5())
    return content.getvalue()


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def safetensors(**changed: object) -> bytes:
    header: dict[str, dict[str, object]] = {}
    numbers = b""
    for name, array in ARRAYS.items():
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        ends = [len(numbers), len(numbers) + array.nbytes]
        header[name] = {"dtype": kind, "shape": [*array.shape], "data_offsets": ends}
        numbers += array.tobytes()
    header["one"] |= changed
    text = json.dumps({**header, "__metadata__": {"format": "np"}}).encode()
    return struct.pack("<Q", len(text)) + text + numbers


FILES: dict[str, bytes] = {
    ".weights.h5": hdf5(),
    ".h5": hdf5(),
    ".keras": keras_archive(),
    ".npz": npz(one=np.asfortranarray(ARRAYS["one"]), two=ARRAYS["two"]),
    ".safetensors": safetensors(),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_each_format_has_its_arrays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"digits{suffix}"
    path.write_bytes(FILES[suffix])
    arrays = read_weights(path)
    assert [name.removeprefix("/layers/") for name in sorted(arrays)] == sorted(ARRAYS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name.removeprefix("/layers/")])


def test_the_function_of_a_stored_version_gets_none_or_the_emptied_file_of_an_earlier_release() -> None:
    weights = {"one": "1" * 64, "two": "2" * 64}
    stored = {"blank.two.weights.h5.zlib": zlib.compress(b"emptied"), "model.keras": b""}
    with Pretrained.of_version(weights, stored).paths(weights) as paths:
        assert paths["one"] is None
        assert Path(str(paths["two"])).name == "two.weights.h5"
        assert Path(str(paths["two"])).read_bytes() == b"emptied"


def test_an_emptied_file_is_not_unpacked_beyond_the_limit_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_lib.models.pretrained.MAX_FILE_BYTES", 10)
    stored = {"blank.one.npz.zlib": zlib.compress(bytes(10**6))}
    (file,) = Pretrained.of_version({"one": "1" * 64}, stored).files.values()
    assert file is not None
    assert len(file.content) == 10


def test_a_member_is_not_unpacked_beyond_its_declared_size(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.npy", npy(np.zeros(10**6)))
    declared = (10**6 * 8 + 128).to_bytes(4, "little")
    assert content.getvalue().count(declared) == 2
    (tmp_path / "small.npz").write_bytes(content.getvalue().replace(declared, (128).to_bytes(4, "little")))
    with pytest.raises(ModelError, match=r"small.npz: expected a file of numbers, got other content: "):
        WeightsFile.read(tmp_path / "small.npz")


def packed(content: bytes, method: int) -> bytes:
    """Return a zip archive with the same members, compressed."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(written, "w", method) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return written.getvalue()


def archive_of(member: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("one.npy", member)
    return content.getvalue()


def header(size: int) -> bytes:
    """Return the header of a NumPy file of so many numbers, which do not follow."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (size,)})
    return content.getvalue()


def linked() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/one"] = h5py.ExternalLink("/etc/passwd", "x")
    return content.getvalue()


def unwritten() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("one", (1 << 30,), "float32")
    return content.getvalue()


def external() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("one", (16,), "float32", external=[("/etc/passwd", 0, 64)])
    return content.getvalue()


WRONG: dict[str, tuple[str, bytes, str]] = {
    "a pickle as .npz": (".npz", pickle.dumps(ARRAYS), "File is not a zip file"),
    "a pickle as .h5": (".h5", pickle.dumps(ARRAYS), "Unable to synchronously open file"),
    "a pickle as .safetensors": (".safetensors", pickle.dumps(ARRAYS), "expected a file of numbers"),
    "a pickle in .npz": (".npz", npz(one=np.array([{}], object)), "Object arrays cannot be loaded"),
    "text in .npz": (".npz", npz(one=np.array(["text"])), "one has the type <U4"),
    "a member that is no array": (".npz", archive_of(b"no header of NumPy"), "the magic string is not correct"),
    "a header of terabytes": (".npz", archive_of(header(10**12)), "expected a file of numbers"),
    "a member in bzip2": (".npz", packed(npz(**ARRAYS), zipfile.ZIP_BZIP2), "expected members that are stored or defl"),
    "text in HDF5": (".h5", hdf5({"one": np.array([b"text"], object)}), "/layers/one has the type object"),
    "compressed": (".h5", hdf5(compression="gzip"), "it has numbers that are compressed, or in other files"),
    "a link": (".h5", linked(), "it has links, perhaps to other files"),
    "numbers of another file": (".h5", external(), "it has numbers that are compressed, or in other files"),
    "numbers that were never written": (".h5", unwritten(), "expected at most .* unpacked bytes, got 4,294,967,296"),
    "another archive": (".keras", npz(**ARRAYS), "no item named 'model.weights.h5'"),
    "an unknown type": (".safetensors", safetensors(dtype="BF16"), "BF16"),
    "a huge shape": (".safetensors", safetensors(shape=[10**9, 10**9]), "buffer is smaller than requested size"),
    "no offsets": (".safetensors", safetensors(data_offsets=None), "Expected `array`, got `null`"),
    **{f"half a {suffix}": (suffix, content[: len(content) // 2], "expected a") for suffix, content in FILES.items()},
}


@pytest.mark.parametrize(("suffix", "content", "expected"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_numbers_is_refused_in_one_line(
    suffix: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / f"digits{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected) as refused:
        WeightsFile.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.long
def test_an_archive_that_holds_more_than_a_file_may_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"{number}.npy", "w") as member:
                for _ in range(40):
                    member.write(bytes(10**7))
    code = f"""
try:
    WeightsFile.read(Path({str(path)!r}))
except ModelError as error:
    assert "expected at most 1,000,000,000 unpacked bytes, got 1,200,000,000" in str(error), error
"""
    setup = """
from pathlib import Path
from mnist_lib.errors import ModelError
from mnist_lib.models.pretrained import WeightsFile
"""
    assert peak_bytes(setup, code) < 50_000_000


def test_a_file_of_10_gb_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    with path.open("wb") as file:
        file.truncate(10 * 10**9)
    with pytest.raises(ModelError, match="expected at most 1,000,000,000 bytes, got 10,000,000,000"):
        WeightsFile.read(path)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a file at .*none.npz, got an error: No such file"):
        WeightsFile.read(tmp_path / "none.npz")
    with pytest.raises(ModelError, match=r"expected a file that ends in .weights.h5, .*, got .*digits.pkl"):
        WeightsFile.read(tmp_path / "digits.pkl")
