"""The reference agrees with the code."""

import contextlib
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from docs.reference.make import FOLDER, PAGES, parsers
from mnist_lib.catalog import DATASETS, MODELS
from mnist_lib.store.champions.promotion import Rule
from tests.support.documents import ROOT

# Paths that exist only while a run is unfinished, or that only other commands write.
NOT_AFTER_A_RUN = (
    "gc.lock",  # only after `gc`
    *("runs/RUN/trials/TRIAL/checkpoints/", "runs/RUN/trials/TRIAL/ended", "unfinished/", "schedules/"),
    *("datasets/DATASET/labels.jsonl", "datasets/DATASET/hashes"),  # only of a folder, or not of one
    "runs/RUN/search.json",  # only of a search
    "likeness.npz",  # not for digits of the catalog
    "model.py",  # only for a user's own model
)
OUTSIDE = ("--data-dir", "~")
PARTS = dict.fromkeys(("RUN", "TRIAL", "MODEL", "DATASET", "FINGERPRINT", "NAME"), "[^/]+") | {"N": r"\d+"}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("command", parsers())
def test_the_page_of_options_lists_the_same_options_as_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *words = command.split()
    package = importlib.import_module(module)
    main = (importlib.import_module(f"{module}.__main__") if hasattr(package, "__path__") else package).main
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    in_help = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    page = (FOLDER / "options.md").read_text()
    (section,) = re.findall(rf"^## {re.escape(command)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    in_page = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    assert in_page == in_help - {"--help", "--version", "--config"}


def rows(page: str) -> list[str]:
    """Return the words marked as code in the first column of the tables of a page."""
    cells = re.findall(r"^\| (`.*?) \|", (FOLDER / page).read_text(), re.MULTILINE)
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def pattern_of(name: str) -> str:
    """Return a regular expression for the files that a row of files.md names."""
    parts = re.split(rf"\b({'|'.join(PARTS)})\b", name)
    pattern = "".join(PARTS.get(part, re.escape(part)) for part in parts)
    return pattern + (".+" if name.endswith("/") else "")


@pytest.mark.long
@pytest.mark.slow
def test_every_stored_file_is_documented_and_every_documented_one_exists(stored: Path) -> None:
    storage = stored / "results"
    files = [path.relative_to(storage).as_posix() for path in storage.rglob("*") if path.is_file()]
    documented = [name for name in rows("files.md") if not name.startswith(OUTSIDE)]
    in_version = documented[documented.index("model.keras") : documented.index("record.json") + 1]
    patterns = {
        name: pattern_of(f"models/MODEL/versions/N/{name}" if name in in_version else name)
        for name in documented
        if "/" in name or "." in name
    }
    whole_version = patterns.pop("models/MODEL/versions/N/")
    undocumented = [file for file in files if not any(re.fullmatch(pattern, file) for pattern in patterns.values())]
    assert undocumented == []
    missing = [
        name
        for name, pattern in {**patterns, "": whole_version}.items()
        if not name.startswith(NOT_AFTER_A_RUN) and not any(re.fullmatch(pattern, file) for file in files)
    ]
    assert missing == []


def test_the_guides_list_the_datasets_and_models_of_the_catalog_with_their_defaults() -> None:
    data, train = ((ROOT / f"docs/{name}.md").read_text() for name in ("data", "train"))
    for name, dataset in DATASETS.items():
        assert re.search(rf"^\| `{name}`.* \| {dataset.train:,}, {dataset.test:,} \|", data, re.MULTILINE), name
    for name, model in MODELS.items():
        defaults = f"`{model.optimizer}`, {model.schedule}"
        assert re.search(rf"^\| `{name}` \|.* \| {defaults} \|$", train, re.MULTILINE), name


def test_the_guide_to_champions_gives_the_limits_of_the_promotion_rule() -> None:
    guide = (ROOT / "docs/models.md").read_text()
    assert f"`--alpha` ({Rule.alpha})" in guide
    assert f"`--max-class-drop` ({Rule.max_class_drop})" in guide


def test_the_design_notes_give_a_reason_for_each_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    names = {re.split(r"[\[<>=~]", requirement)[0] for requirement in [*project["dependencies"], *optional]}
    _, _, section = (ROOT / "docs/design.md").read_text().partition("\n## Dependencies\n")
    lacking = {
        name for name in names - {"mnist-jobs"} if not re.search(rf"\b{re.escape(name)}\b", section, re.IGNORECASE)
    }
    assert lacking == set()


def test_each_row_of_the_faults_has_a_test_with_its_id_and_each_id_a_row() -> None:
    rows = re.findall(r"^\| ([a-z]\d+) \|", (FOLDER / "faults.md").read_text(), re.MULTILINE)
    names = [
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def test_(\w+)", path.read_text())
    ]
    ids = {id for name in names if (found := re.match(r"(?:[a-z]\d+_)+", name)) for id in found[0].split("_") if id}
    assert len(rows) == len({*rows})
    assert {*rows} == ids
