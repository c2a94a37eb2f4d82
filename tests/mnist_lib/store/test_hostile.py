"""A storage that anybody may have changed: one-line errors, no wrong answer, no endless wait, no other file touched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.models import __main__ as models
from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.appointment import champion, rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import collect, publish
from mnist_lib.store.versions import find, version_folder
from tests.support.store.fake_versions import about, files
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.store.scenarios import published
from tests.support.store.sealed import fields_of, reseal

pytestmark = pytest.mark.timeout(30)  # an endless wait is a failure


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """Return a storage with three versions that were promoted one after the other."""
    objects = LocalObjects(tmp_path / "store")
    for right in (50, 100, 150):
        promote(objects, published(objects, right), Rule())
    return objects


@pytest.fixture
def keras(objects: LocalObjects) -> Path:
    return Path(objects.where("models/keras"))


def test_p5_a_disqualified_version_cannot_become_champion_by_a_roll_back(objects: LocalObjects) -> None:
    publish(objects, "keras", "nan", files(199, finite=False), about())
    publish(objects, "keras", "few", files(100, images=100), about())
    publish(objects, "keras", "none", {"model.keras": b""}, about())
    for number, message in ((4, "probabilities that are not finite numbers"), (5, "tested on 100 of 200 images")):
        with pytest.raises(SpecError, match=f"keras@{number} .*{message}"):
            rollback(objects, "keras", "mnist", to=number)
    with pytest.raises(IntegrityError, match=r"keras@6: expected a file predictions.npz"):
        rollback(objects, "keras", "mnist", to=6)
    assert champion_verified(objects) == 3


def test_s8_a_damaged_version_cannot_become_champion_by_a_roll_back(objects: LocalObjects, keras: Path) -> None:
    (keras / "versions/2/model.keras").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"^keras@2: model\.keras: expected "):
        rollback(objects, "keras", "mnist", to=2)
    assert champion_verified(objects) == 3


def folder(path: Path) -> None:
    path.mkdir(parents=True)


def pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def link_to_nothing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["champions/mnist/00000004.json"])
def test_p7_a_folder_in_place_of_the_next_record_is_an_error_at_once(
    objects: LocalObjects, keras: Path, name: str
) -> None:
    folder(keras / name)
    with pytest.raises(IntegrityError, match=rf"^[^\n]*{name}: expected a regular file, got [^\n]*remove it$"):
        rollback(objects, "keras", "mnist")


@pytest.mark.parametrize("make", [pipe, link_to_nothing])
def test_p7_a_pipe_or_link_in_place_of_the_next_champion_record_is_damage_that_a_roll_back_leaves_behind(
    objects: LocalObjects, keras: Path, make: Callable[[Path], None]
) -> None:
    make(keras / "champions/mnist/00000004.json")
    with pytest.raises(IntegrityError, match=r"00000004.json: expected a regular file, got [^\n]*remove it$"):
        champion(objects, "keras", "mnist")
    assert rollback(objects, "keras", "mnist").number == 5


@pytest.mark.parametrize("make", [folder, pipe, link_to_nothing])
def test_s8_a_folder_or_pipe_in_place_of_a_committed_file_counts_as_damage(
    objects: LocalObjects, keras: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = keras / "versions/2/model.keras"
    path.unlink()
    make(path)
    assert models.main(["verify", "--all", "--storage", str(keras.parents[1])]) == 7
    out = capsys.readouterr().out
    assert "model.keras" in out
    assert "2 versions intact, 1 damaged." in out


def test_a_lost_claim_does_not_let_another_run_reuse_the_number(objects: LocalObjects, keras: Path) -> None:
    before = all_verified(objects)
    (keras / "claims/00000001.json").unlink()
    version = published(objects, 198)
    assert version.number not in before
    assert all_verified(objects) == [*before, version.number]
    found = find(objects, "keras", version.number)
    assert found is not None
    assert found.run == "run-198"


def test_a_lost_commit_record_does_not_let_another_run_overwrite_the_files(objects: LocalObjects, keras: Path) -> None:
    for kind in ("claims", "commits"):
        (keras / f"{kind}/00000003.json").unlink()
    with pytest.raises(IntegrityError, match="expected an empty folder, got files; move them away"):
        published(objects, 198)
    assert (keras / "versions/3/model.keras").exists()


def test_verify_finds_a_missing_champion_record_and_the_champion_stays(
    objects: LocalObjects, keras: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keras / "champions/mnist/00000001.json").unlink()
    newest = champion(objects, "keras", "mnist")
    assert newest is not None
    assert newest.version == 3
    assert models.main(["verify", "--storage", str(keras.parents[1])]) == 7
    assert "champions/mnist/00000001.json: expected a record" in capsys.readouterr().out
    assert not promote(objects, published(objects, 10), Rule()).promote


@pytest.mark.parametrize(
    "change",
    [
        {"about": {}},
        {"about": {"test": None}},
        {"about": []},
        {"run": 5},
        {"number": True},
        {"files": {"x": None}},
    ],
)
@pytest.mark.parametrize("command", [["list"], ["show", "keras@1"], ["verify", "--all"]])
def test_s9_a_sealed_record_with_wrong_fields_is_damage_and_the_others_are_listed(
    objects: LocalObjects, keras: Path, change: dict[str, Any], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = keras / "commits/00000001.json"
    reseal(path, change)
    code = models.main([*command, "--storage", str(keras.parents[1])])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert code == 7 or (command[0] == "verify" and "about" in change)  # verify does not read the counts
    if command != ["show", "keras@1"]:
        assert "keras@3" in captured.out or "versions intact" in captured.out


@pytest.mark.parametrize("change", [{"version": "2"}, {"version": -1}, {"version": 2.0}, {"at": 5}, {"why": None}])
def test_s9_a_champion_record_with_wrong_types_counts_as_damage(
    objects: LocalObjects, keras: Path, change: dict[str, Any]
) -> None:
    path = keras / "champions/mnist/00000003.json"
    reseal(path, change)
    with pytest.raises(IntegrityError, match=r"00000003.json: expected a record"):
        champion(objects, "keras", "mnist")
    assert rollback(objects, "keras", "mnist").version == 2


@pytest.mark.parametrize("change", [{"at": None}, {"at": "x"}, {"at": "2026-01-01"}])
def test_s9_a_damaged_claim_does_not_block_publishing_or_roll_backs(
    objects: LocalObjects, keras: Path, change: dict[str, Any]
) -> None:
    reseal(keras / "claims/00000001.json", change)
    (keras / "commits/00000001.json").rename(keras / "away")
    collect(objects, "keras", keep=1)
    (keras / "away").rename(keras / "commits/00000001.json")
    assert rollback(objects, "keras", "mnist", to=1).version == 1
    assert published(objects, 198).number == 4


def test_s10_a_link_in_place_of_a_version_folder_is_deleted_and_not_followed(
    objects: LocalObjects, keras: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (keras / "versions/1").rename(tmp_path / "moved")
    (keras / "versions/1").symlink_to(tmp_path / "precious")
    objects.delete_below(version_folder("keras", 1))
    assert (tmp_path / "precious/file").exists()
    assert not (keras / "versions/1").is_symlink()


@pytest.mark.parametrize("storage", ["nowhere", "file"])
@pytest.mark.parametrize("command", [["list"], ["verify", "--all"], ["champion"], ["gc", "--keep=1"]])
def test_a_storage_that_is_not_a_folder_is_an_error_and_not_an_empty_storage(
    storage: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert models.main([*command, "--storage", str(tmp_path / storage)]) == 6
    assert "expected a folder, got none" in capsys.readouterr().err


def test_p12_secrets_and_terminal_control_codes_are_not_printed(
    objects: LocalObjects, keras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_secret_access_key = canary")
    path = keras / "commits/00000001.json"
    path.unlink()
    path.symlink_to(tmp_path / "credentials")
    path = keras / "commits/00000002.json"
    reseal(path, {"run": "\x1b[31mred"})
    path = keras / "commits/00000003.json"
    reseal(path, {"about": {**fields_of(path)["about"], "trial": "\x1b[31mred"}})
    assert models.main(["list", "--storage", str(keras.parents[1])]) == 7
    out = capsys.readouterr().out
    assert "keras@2: expected a record of this kind, got other content" in out
    assert models.main(["show", "keras@3", "--storage", str(keras.parents[1])]) == 0
    out += capsys.readouterr().out
    assert "canary" not in out
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out


@pytest.mark.parametrize(
    "option", ["--alpha=nan", "--alpha=inf", "--alpha=-1", "--min-accuracy=2", "--min-accuracy=nan"]
)
def test_a_promotion_rule_out_of_range_is_refused(
    objects: LocalObjects, keras: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.main(["promote", "keras@1", option, "--json", "--storage", str(keras.parents[1])]) == 2
    assert "expected a number from 0 to 1" in capsys.readouterr().err


def test_json_output_is_valid_if_a_manifest_contains_nan(
    objects: LocalObjects, keras: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, rate in (("a", "NaN"), ("b", "1")):
        manifest = f'{{"spec": {{"rate": {rate}}}}}'.encode()
        publish(objects, "keras", run, {**files(10), "manifest.json": manifest}, about())
    assert models.main(["diff", "keras@4", "keras@5", "--json", "--storage", str(keras.parents[1])]) in (0, 7)
    out = capsys.readouterr().out
    if out:
        json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
