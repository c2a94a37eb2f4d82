"""A hash of the files of a dataset as they are now, made without TensorFlow. If it is unchanged, no run is needed."""

import hashlib
import json
import re
from typing import Any

from mnist_lib.data.availability import default_data_dir, file_hashes
from mnist_lib.data.corrections import LabelsFile
from mnist_lib.data.listing import list_folder
from mnist_lib.data.mirror import wanted_tags
from mnist_lib.data.request import DataRequest
from mnist_lib.objects.local import LocalObjects


def fingerprint_of_files(request: DataRequest, labels: bytes = b"") -> str | None:
    """Return a hash that changes with a dataset's files and corrections, or None if there are no files.

    Args:
        labels: the corrections in the storage, of a dataset that is not a folder.

    Raises:
        DataError: a folder cannot be listed.
        StoreError: a bucket cannot be listed, or corrections cannot be read.
    """
    if request.url is not None:
        from mnist_lib.objects.bucket import BucketObjects  # obstore takes time to load, and folders do not need it

        return _hash(wanted_tags(BucketObjects(request.url)))
    if request.folder is not None:
        corrections = LabelsFile(LocalObjects(request.folder)).content()
        return _hash([list_folder(request.folder).state, hashlib.sha256(corrections).hexdigest()])
    if request.entry is not None and request.entry.embedded:
        return _hash([request.dataset, hashlib.sha256(labels).hexdigest()])
    name = request.entry.tfds_name if request.entry else re.split("[/:]", request.tfds or "")[0]
    lines = [*file_hashes((request.data_dir or default_data_dir()) / name, ignored_suffix=".json")]
    return hashlib.sha256(b"".join([*lines, labels])).hexdigest() if lines else None


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
