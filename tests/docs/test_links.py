"""Every local link leads to a file or heading, and every path that a document names exists."""

import re
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, ROOT, anchors, links, name_of, prose

TOP = "jobs|mnist_lib|cluster|docs|benchmarks|tests|requirements"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_local_link_leads_to_an_existing_file_and_heading(path: Path) -> None:
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    for named in re.findall(rf"`((?:{TOP})/[\w./-]*)`", prose(path)):
        assert (ROOT / named).exists(), named


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert linked >= {*(ROOT / "docs").rglob("*.md")}
