"""What must hold for a storage after any fault."""

from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.appointment import history
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version, find, find_all, verify


def all_verified(objects: Objects, model: str = "keras") -> list[int]:
    """Return the numbers of all versions, after checking that each is complete and that each run has at most one."""
    versions = []
    for number, version in find_all(objects, model):
        assert isinstance(version, Version), version
        assert version.number == number
        verify(objects, version)
        versions.append(version)
    assert len({version.run for version in versions}) == len(versions)
    return [version.number for version in versions]


def champions(objects: Objects, model: str = "keras", dataset: str = "mnist") -> list[Champion]:
    """Return the log of champions, after checking that no record is damaged."""
    log = history(objects, model, dataset)
    intact = [record for record in log if isinstance(record, Champion)]
    assert len(intact) == len(log)
    return intact


def champion_verified(objects: Objects, model: str = "keras", dataset: str = "mnist") -> int | None:
    """Return the champion's version number, after checking that it is complete and finite, and that each record of the
    log names the version before it."""
    log = champions(objects, model, dataset)
    if not log:
        return None
    assert [record.replaced for record in log] == [None, *(record.version for record in log[:-1])]
    version = find(objects, model, log[-1].version)
    assert version is not None, f"the champion, {log[-1].version}, does not exist"
    verify(objects, version)
    assert Predictions.read(objects, version).disqualification is None
    return version.number
