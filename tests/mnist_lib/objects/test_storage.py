"""What `--storage` accepts, and which packages opening a folder does not load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib.errors import SpecError
from mnist_lib.objects.storage import check_storage, open_storage


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("ftp://host/x", "expected a folder, or a URL with s3://, gs://, az://, got ftp://"),
        ("s3://key:canary@bucket/x", "expected a URL without credentials"),
        ("s3://bucket/x?secret=canary", "expected a URL without credentials"),
        ("s3:///x", "expected a bucket, such as s3://bucket/folder"),
    ],
)
def test_i12_an_invalid_storage_is_refused_without_repeating_its_password(storage: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        check_storage(storage)
    assert "canary" not in str(refused.value)


def test_a_file_url_opens_a_folder(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}").create("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.slow
def test_a_local_storage_does_not_load_obstore(tmp_path: Path) -> None:
    code = (
        "import json, sys; from mnist_lib.objects.storage import open_storage;"
        f"open_storage({str(tmp_path)!r}).create('x', b'');"
        "print(json.dumps([name for name in sys.modules if 'obstore' in name]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) == []
