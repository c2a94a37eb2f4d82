"""Publish a version with its commit record, in a storage on the same disk."""

from publishing import folder, measure

from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.publishing import publish

objects = LocalObjects(folder())
about = {"trial": "keras-s0", "test": {"correct": 9_800, "total": 10_000}}
measure(lambda number, files: publish(objects, "keras", f"run-{number}", files, about))
