"""A version that starts from another one is trained again from the same weights, which have to be in the storage."""

from dataclasses import replace
from pathlib import Path

import pytest

from mnist_lib.data.dataset import Dataset
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.spec import TrialSpec
from mnist_lib.store.versions import Version, commit_record, version_folder
from mnist_lib.training import reproduction
from mnist_lib.training.reproduction import IDENTICAL, WITHIN, Reproduction, ReproductionInputs, reproduce
from tests.support.digits import few_digits
from tests.support.stored import publish_trained

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.mark.long
def test_the_last_version_of_a_chain_is_reproduced_if_the_one_before_is_intact(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, few = LocalObjects(tmp_path), few_digits(digits)
    spec = TrialSpec.of("keras", hidden_units=8, epochs=1)
    first = publish_trained(objects, few, "a", spec)
    second = publish_trained(objects, few, "b", spec, first)
    third = publish_trained(objects, few, "c", replace(spec, seed=1), second)
    assert len({version.facts.weights_sha256 for version in (first, second, third)}) == 3

    def again(version: Version) -> Reproduction:
        return reproduce(objects, version, lambda: few, {"sha256": "0" * 64}, ReproductionInputs(cpus=2))

    result = again(third)
    assert (result.verdict, result.starts_from, result.differing) == (IDENTICAL, ("keras@2", "keras@1"), {})
    assert result.exact
    with monkeypatch.context() as on_gpus:
        on_gpus.setattr(reproduction, "is_exact", lambda devices, deterministic: False)
        result = again(third)
    assert (result.verdict, result.exact) == (WITHIN, False)

    def refused(reason: str) -> None:
        with pytest.raises(IntegrityError, match=reason):
            again(third)

    file = tmp_path / version_folder("keras", 2) / "model.keras"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused("keras@2: model.keras: expected ")
    file.write_bytes(content)
    record = commit_record("keras", 2)
    objects.replace(record, seal(replace(second, deleted=True)))
    refused("keras@3: expected keras@2, from which it starts, in .*, but gc has deleted it; restore it from a copy")
    objects.delete(record)
    refused("keras@3: expected keras@2, from which it starts, in .*, but there is none")
