"""Delete annexes, each from a copy of the project, and run the fast tests that are left: `make annexes`.

`python -m tests.support.without_annex review track` tries only these two. An annex is its own files, and its entries in
the lists and the documents of others.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.job import ROOT

# Besides tests of documents, whose sentences about the annex a writer would correct.
FAST = ("-m", "not slow and not long", "--hypothesis-profile=fast", "--ignore=tests/docs")
HOW = ("-n", "2", "--dist", "loadfile", "-q", "-p", "no:cacheprovider")
# An editable installation would find a module that is missing in the copy in the original folder.
ONLY_THIS_COPY = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
"""


class Annex(NamedTuple):
    files: tuple[str, ...]  # its package, its tests and its guide
    named: str  # how lists and documents name it, as a regular expression


def command(name: str, *others: str, also: str = "") -> Annex:
    """Return the annex that is a command.

    Args:
        others: its files besides its package and its tests.
        also: another regular expression of how lists and documents name it.
    """
    named = rf"\A\"{name}\"|\bjobs[./]{name}\b|\bmnist-jobs {name}\b|\b{name}\.md\b"
    named += f"|{also}" if also else ""
    return Annex((f"jobs/{name}", f"tests/jobs/{name}", *others), named)


PAGE = ("page.py", "plots.py", "index.py", "templates")
ANNEXES = {
    "report": Annex(
        (
            "jobs/train/reporting.py",
            "tests/jobs/train/test_reporting.py",
            "docs/report.md",
            *(f"mnist_lib/report/{name}" for name in PAGE),
            *(f"tests/mnist_lib/report/test_{name}.py" for name in ("page", "plots", "index", "search")),
        ),
        r"jobs\.train\.reporting|\breport\.md\b|mnist_lib/report/(page|plots|index)\.py|\"templates/",
    ),
    "search": command("search", "docs/search.md"),
    "review": command(
        "review",
        "docs/review.md",
        "tests/support/reviewing.py",
    ),
    "track": command("track", "tests/support/tracking.py", also="E-TRACKING"),
    "retrain": command(
        "retrain",
        "docs/retrain.md",
        "cluster/deploy/crontab",
        "cluster/deploy/systemd",
        "cluster/deploy/kubernetes/cronjob.yaml",
        "tests/support/retraining",
        "tests/support/schedule.py",
        "tests/support/emitted.py",
        also=r"\bcronjob\b",
    ),
}


def copy_project(place: Path) -> None:
    """Copy the files that are under version control."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.rstrip("\0").split("\0"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    (place / "sitecustomize.py").write_text(ONLY_THIS_COPY)


def delete(annex: Annex, place: Path) -> None:
    """Delete the files of an annex, and its entries in lists and documents."""
    for name in annex.files:
        path = place / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in place.rglob("*.py"):
        if not path.is_relative_to(place / "benchmarks"):  # which are about commands, as documents are
            path.write_text(without_entries(path.read_text(), annex.named))
    for path in (*place.rglob("*.md"), place / "pyproject.toml"):
        path.write_text(without_mentions(path.read_text(), annex.named))


def without_entries(text: str, named: str) -> str:
    """Return a module without the entries of its lists that name an annex, or a constant that does."""
    code = text.encode()  # in which an `ast` counts
    tree = ast.parse(code)
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    pattern = re.compile("|".join([named, *constants(tree, named)]).encode())
    spans = []
    for first, last in entries(tree):
        start = starts[first.lineno - 1] + first.col_offset
        end = starts[(last.end_lineno or last.lineno) - 1] + (last.end_col_offset or 0)
        if pattern.search(code[start:end]):
            rest = re.match(rb"\s*,?[ \t]*(#.*)?", code[end:])
            spans.append((start, end + (rest.end() if rest else 0)))
    for start, end in sorted(spans, reverse=True):
        code = code[:start] + code[end:]
    return code.decode()


def constants(tree: ast.Module, named: str) -> Iterator[str]:
    """Yield a regular expression for the name of each constant of a module whose text names an annex."""
    for target, value in assignments(tree):
        if isinstance(value, ast.Constant) and re.search(named, str(value.value)):
            yield rf"\b{target}\b"


def assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and the value of each variable of a module."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value is not None:
            yield target.id, value


def entries(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield the first and the last expression of each entry of the lists of a module and of its parametrized tests."""
    nodes: list[ast.AST] = [value for _, value in assignments(tree)]
    nodes += [decorator for node in tree.body if isinstance(node, ast.FunctionDef) for decorator in node.decorator_list]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            yield from ((element, element) for element in node.elts)
        elif isinstance(node, ast.Dict):
            yield from ((key or value, value) for key, value in zip(node.keys, node.values, strict=True))
        else:
            nodes += ast.iter_child_nodes(node)


def without_mentions(text: str, named: str) -> str:
    """Return a document without the sentences and the lines of tables, lists and commands that name an annex."""
    blocks = []
    for block in re.split(r"\n{2,}", text):
        is_prose = not re.match(r"[|`[\"-]|\d\.", block)
        pieces = re.split(r"(?<=[.:;]\s)" if is_prose else r"(?<=\n)", block)
        blocks.append("".join(piece for piece in pieces if not re.search(named, piece)))
    return "\n\n".join(blocks)


def main(names: Sequence[str]) -> int:
    """Try each annex; return how many of the projects without one fail."""
    failures = 0
    for name in names or ANNEXES:
        with tempfile.TemporaryDirectory() as folder:
            copy_project(Path(folder))
            delete(ANNEXES[name], Path(folder))
            print(f"Without {name}:", flush=True)
            environment = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run([sys.executable, "-m", "pytest", *FAST, *HOW], cwd=folder, env=environment)
            failures += done.returncode != 0
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
