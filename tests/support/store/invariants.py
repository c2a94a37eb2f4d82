"""What holds of a storage after anything that may have happened to it: the promises, as a function."""

from mnist_lib.store.champions import Champion, history
from mnist_lib.store.contents import Predictions
from mnist_lib.store.objects import Objects
from mnist_lib.store.versions import Version, find, find_all, verify


def all_verified(objects: Objects, model: str = "keras") -> list[int]:
    """The numbers of the versions there are, each of them complete, and one of each run."""
    versions = []
    for number, version in find_all(objects, model):
        assert isinstance(version, Version), version
        assert version.number == number
        verify(objects, version)
        versions.append(version)
    assert len({version.run for version in versions}) == len(versions)
    return [version.number for version in versions]


def champions(objects: Objects, model: str = "keras") -> list[Champion]:
    """The whole log, none of whose records is damaged."""
    log = history(objects, model)
    whole = [record for record in log if isinstance(record, Champion)]
    assert len(whole) == len(log)
    return whole


def champion_verified(objects: Objects, model: str = "keras") -> int | None:
    """The number of the champion: complete, finite, and the last of a log in which each names the one before it."""
    log = champions(objects, model)
    if not log:
        return None
    assert [record.replaced for record in log] == [None, *(record.version for record in log[:-1])]
    version = find(objects, model, log[-1].version)
    assert version is not None, f"the champion, {log[-1].version}, does not exist"
    verify(objects, version)
    assert Predictions.of(objects, version).disqualification is None
    return version.number
