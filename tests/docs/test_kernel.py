"""The page about the kernel shows its code as it is."""

import inspect
import re
import textwrap

from cluster.supervisor import VERDICTS
from jobs.train.supervision import Loop
from tests.support.job import ROOT

PAGE = (ROOT / "docs/kernel.md").read_text()


def test_the_page_shows_the_loop_of_a_run() -> None:
    source = textwrap.dedent(inspect.getsource(Loop.run))
    loop = textwrap.dedent(source[source.index("        while ") : source.index("    finally:")])
    assert f"```text\n{loop}```" in PAGE


def test_the_page_has_the_table_of_deaths() -> None:
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.MULTILINE)
    assert rows == [(state.value, *(verdict.name.lower() for verdict in row)) for state, row in VERDICTS.items()]


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 120
