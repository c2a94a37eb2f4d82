"""The README is short, its pictures are small, its layout is complete and its results are those of the benchmarks."""

import re
import subprocess
from pathlib import Path

from tests.support.documents import BLOCK, ROOT

README = (ROOT / "README.md").read_text()
MAX_LINES, MAX_PICTURE_BYTES = 250, 400_000


def test_the_readme_has_at_most_250_lines() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_the_readme_shows_every_picture_and_they_take_under_400_kb() -> None:
    pictures = [*(ROOT / "docs/pictures").glob("*.png")]
    shown = {ROOT / name for name in re.findall(r'(?:\]\(|src=")(docs/pictures/[\w-]+\.png)', README)}
    assert {*pictures} == shown
    assert len(shown) >= 2
    assert sum(picture.stat().st_size for picture in pictures) < MAX_PICTURE_BYTES


def layout() -> set[Path]:
    """Return the folders and files that the layout of the code in the README names."""
    (block,) = [body for kind, body in BLOCK.findall(README) if kind == "text"]
    named, top = set(), ""
    for line in block.splitlines():
        names = re.findall(r"[\w.]+/|\w+\.py", line[:22])
        if not line.startswith(" "):
            top = names[0]
            named |= {Path(name) for name in names}
        else:
            named |= {Path(top, name) for name in names}
    return named


def test_the_layout_in_the_readme_names_every_package_and_nothing_else() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tracked = [name for name in listed if (ROOT / name).exists()]
    packages = {Path(*Path(name).parts[:2]) for name in tracked if re.match(r"(jobs|mnist_lib|cluster)/.+/", name)}
    assert all((ROOT / name).exists() for name in layout())
    assert {name for name in layout() if len(name.parts) == 2 and not name.suffix} == packages


def test_every_number_in_the_results_is_in_the_benchmark_record() -> None:
    record = (ROOT / "benchmarks/README.md").read_text()
    (section,) = re.findall(r"^## Results\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    figures = set(
        re.findall(r"\d+\.\d+%?", re.sub(r"(Python|TensorFlow|Keras|Ray|tensorflow|ray) \d[\d.]+\d", "", section))
    )
    assert {figure for figure in figures if figure not in record} == set()
    assert len(figures) > 20
