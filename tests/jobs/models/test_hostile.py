"""Commands on a storage in which somebody changed a document: an exit code of the table, one line, and no traceback."""

import io
import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs.models import __main__ as models
from mnist_lib import runs
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.records import seal
from mnist_lib.spec import TrialSpec
from mnist_lib.store.champions.appointment import champion, rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import publish
from mnist_lib.store.runs import SUMMARY, RunFolder
from tests.support import hostile
from tests.support.json_documents import DEEP, HOSTILE, replaced
from tests.support.store.fake_versions import DATASET, about, files, small_manifest
from tests.support.store.scenarios import published
from tests.support.store.sealed import fields_of
from tests.support.store.summaries import small_model, small_summary, summary_of

COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["show", "keras@1"],
    ["diff", "keras@1", "keras@2"],
    ["champion"],
    ["history", "--json"],
    ["verify", "--all"],
    ["promote", "keras@1"],
    ["rollback", "keras", "--to=1"],
    ["gc", "--keep=1"],
]
# Where a value is replaced: in which record, and at which path.
PLACES: list[tuple[str, tuple[str, ...]]] = [
    *(("commits", (name,)) for name in ("model", "run", "committed_at", "files", "about", "deleted")),
    ("commits", ("files", "model.keras")),
    ("commits", ("about", "dataset")),
    ("commits", ("about", "dataset", "test")),
    *(("champions/mnist", (name,)) for name in ("at", "kind", "why", "replaced", "statistics", "comparisons", "test")),
    ("claims", ("at",)),
]
SOME = [None, [], -1, 10**400, 1e308, DEEP, "$\\frac{$", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00"]


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(tmp_path / "store")
    for right in (50, 100):
        promote(objects, published(objects, right), Rule())
    return objects


def replace_in(path: Path, place: tuple[str, ...], value: Any) -> None:
    path.write_bytes(seal(replaced(fields_of(path), place, value)))


def run(command: list[str], objects: LocalObjects, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code, and what a command printed to standard error, after checking that neither is a crash."""
    code = models.main([*command, "--storage", objects.where("models").removesuffix("/models")])
    captured = capsys.readouterr()
    assert code in (0, 2, 6, 7, 10), captured.err
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") <= 1
    if "--json" in command and captured.out:
        json.loads(captured.out)
    return code, captured.err


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=lambda place: "/".join((place[0], *place[1])))
def test_no_command_fails_on_a_value_that_does_not_belong_into_a_record(
    place: tuple[str, tuple[str, ...]], objects: LocalObjects, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(objects.where(f"models/keras/{place[0]}/00000001.json"))
    content = path.read_bytes()
    for number, value in enumerate(SOME):
        replace_in(path, place[1], value)
        for command in COMMANDS if not number else COMMANDS[number % 4 :: 4]:
            run(command, objects, capsys)
        path.write_bytes(content)


MANIFEST = small_manifest(
    spec=asdict(TrialSpec.of("keras")), dataset={**DATASET, "image_shape": [28, 28, 1], "classes": [*"0123456789"]}
)
MANIFEST_PLACES = [
    (),
    ("record",),
    ("record", "spec"),
    ("record", "spec", "arguments"),
    ("record", "spec", "epochs"),
    ("dataset",),
    ("dataset", "image_shape"),
    ("dataset", "classes"),
    ("history",),
    ("record", "devices"),
    ("code",),
    ("record", "versions"),
    ("record", "weights_sha256"),
]


def test_no_command_fails_on_a_value_that_does_not_belong_into_a_manifest(
    objects: LocalObjects, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (place, value) in enumerate((place, value) for place in MANIFEST_PLACES for value in (None, DEEP)):
        manifest = json.dumps(replaced(MANIFEST, place, value)).encode()
        version = publish(objects, "keras", f"odd-{number}", {**files(100), "manifest.json": manifest}, about())
        run(["diff", "keras@1", version.name], objects, capsys)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_one_odd_summary_does_not_stop_the_python_api(number: int, tmp_path: Path) -> None:
    objects, good = LocalObjects(tmp_path), small_summary(models={"keras": small_model()})
    RunFolder(objects, "good").complete(summary_of(good))
    for name in ("run", "ended", "dataset", "models", "trials"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "summary.json").write_text(json.dumps({**good, name: HOSTILE[number]}))
    found = {run.name: run.status for run in runs(tmp_path)}
    assert found["good"] == "complete"
    assert len(found) == 6


def odd_summaries(good: dict[str, Any]) -> dict[str, Any]:
    return {
        "math": {**good, "models": {"$\\frac{$": small_model()}},
        "no-zone": {**good, "ended": "2026-01-01T00:00:00"},
        "late": {**good, "ended": "9999-12-31T23:59:59Z"},
        "high": {**good, "models": {"keras": small_model(mean_test_accuracy=1e308)}},
        "deep": {**good, "trials": DEEP},
    }


def test_one_odd_summary_or_champion_does_not_stop_the_index(
    objects: LocalObjects, caplog: pytest.LogCaptureFixture
) -> None:
    good = small_summary(models={"keras": small_model()})
    RunFolder(objects, "good").complete(summary_of({**good, "run": "good"}))
    for name, summary in odd_summaries(good).items():
        RunFolder(objects, name).write_json(SUMMARY, {**summary, "run": name})
    replace_in(Path(objects.where("models/keras/champions/mnist/00000001.json")), ("at",), "9999-12-31T23:59:59Z")
    with caplog.at_level(logging.WARNING):
        pytest.importorskip("mnist_lib.report.index").write_index(objects)
    page = (objects.read("index.html") or b"").decode()
    assert ">good<" in page
    left_out = page[page.index("<h2>Left out</h2>") :]
    for name in odd_summaries(good):
        assert f"run {name}, because its summary is damaged" in left_out
        assert f"leaves out run {name}" in caplog.text
    assert "champions/mnist/00000001.json" in left_out
    assert "keras@2" in page


def test_a_champion_that_cannot_be_read_is_left_where_it_is(
    objects: LocalObjects, change_champion: Callable[[], None]
) -> None:
    change_champion()
    better = published(objects, 199)
    decision = promote(objects, better, Rule())
    assert not decision.promote
    assert "the champion is damaged; roll it back first" in decision.why


@pytest.fixture(params=["predictions.npz", "record"])
def change_champion(request: pytest.FixtureRequest, objects: LocalObjects) -> Callable[[], None]:
    def change() -> None:
        if request.param == "record":
            replace_in(Path(objects.where("models/keras/commits/00000002.json")), ("about", "dataset"), DEEP)
        else:
            with Path(objects.where("models/keras/versions/2/predictions.npz")).open("ab") as file:
                file.truncate(12_000_000_000)

    return change


@pytest.mark.parametrize("number", ["99999999", "9" * 40, "00000004"])
def test_a_record_with_any_number_as_its_name_delays_no_command(
    number: str, objects: LocalObjects, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("champions/mnist", "commits", "claims"):
        Path(objects.where(f"models/keras/{folder}")).joinpath(f"{number}.json").write_text("{}")
    for command in COMMANDS:
        run(command, objects, capsys)
    rollback(objects, "keras", "mnist", to=1)
    newest = champion(objects, "keras", "mnist")
    assert newest is not None
    assert newest.version == 1


def test_predictions_of_no_images_are_compared_as_any_others(
    objects: LocalObjects, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(objects, "keras", "empty", {**files(0, images=0)}, about())
    run(["diff", "keras@1", "keras@3", "--json"], objects, capsys)
    run(["promote", "keras@3"], objects, capsys)


def test_stored_text_cannot_act_on_the_terminal(objects: LocalObjects, capsys: pytest.CaptureFixture[str]) -> None:
    facts = about(right=150)
    facts["trial"] = hostile.HOSTILE
    facts["dataset"]["version"] = hostile.HOSTILE
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr(hostile.HOSTILE.replace("\0", "").encode(errors="replace").decode(), b"")
    publish(objects, "keras", "r3", files(151), facts)
    publish(objects, "keras", "r4", {**files(151), "predictions.npz": member.getvalue()}, facts)
    storage = ("--storage", objects.where("models").removesuffix("/models"))
    shown = {}
    for words in (
        "list",
        "show keras@3",
        "verify --all",
        "diff keras@1 keras@3",
        "diff keras@1 keras@4",
        "gc --keep=9",
        "promote keras@4",
    ):
        code = models.main([*words.split(), *storage])
        shown[words] = (code, *capsys.readouterr())
        assert all(map(hostile.is_harmless, shown[words][1:])), words
    assert r"\x1b[2J" in shown["show keras@3"][1]
    code, _, stderr = shown["promote keras@4"]
    assert (code, stderr.count("\n")) == (7, 1)
