"""The documents of this project: their commands, code blocks, links and words."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from docs.reference.make import anchor_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "benchmarks/README.md", ROOT / "benchmarks/tried.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("python -m jobs.", "python -m cluster.", "mnist-jobs ", "make ")


class Snippet(NamedTuple):
    document: str  # path relative to the repository
    text: str

    def __repr__(self) -> str:
        return f"{self.document}: {self.text.strip().splitlines()[0]}"


def text_of(path: Path) -> str:
    return path.read_text()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(kind: str) -> list[Snippet]:
    """Return the code blocks of a language in all documents."""
    return [
        Snippet(name_of(path), body)
        for path in DOCUMENTS
        for found, body in BLOCK.findall(text_of(path))
        if found == kind
    ]


def prose(path: Path) -> str:
    """Return a document without its code blocks and HTML comments."""
    return re.sub(r"<!--.*?-->", "", BLOCK.sub("", text_of(path)), flags=re.DOTALL)


def commands() -> list[Snippet]:
    """Return every command of this project that is in a shell block (without comments) or in prose."""
    lines = [
        Snippet(block.document, line.partition(" #")[0].strip())
        for block in blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    lines += [
        Snippet(name_of(path), " ".join(words.replace("up|down", "up").split()))
        for path in DOCUMENTS
        for words in re.findall(r"`([^`]+)`", prose(path))
    ]
    return [line for line in lines if line.text.removeprefix("MNIST_SOURCE=~/mnist ").startswith(PROGRAMS)]


def anchors(path: Path) -> Sequence[str]:
    return [anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(path)), re.MULTILINE)]


def links(path: Path) -> list[str]:
    """Return the targets of all links and pictures of a document, except those in code blocks."""
    return re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(path)))
