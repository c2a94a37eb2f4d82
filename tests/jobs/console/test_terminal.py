"""The job on a terminal, as a person sees it."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.job import ROOT

pytestmark = pytest.mark.slow


def test_a_terminal_shows_a_live_table_and_the_result_goes_where_it_was_sent(data_dir: Path, tmp_path: Path) -> None:
    options = ["--models=scratch", "--epochs=30", f"--data-dir={data_dir}", f"--storage={tmp_path}/results"]
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *options],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=its,
        text=True,
    )
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += part
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    text = shown.decode()
    assert "trial" in text
    assert "/30" in text  # epochs, in a bar
    assert "1 running" in text
    assert "\x1b[?25l" not in text  # the cursor stays: a driver that is killed could not bring it back
    assert text.endswith("\x1b[1A\x1b[2K")  # the table is gone
    assert stdout.startswith("Accuracy on the 1,000 test images")
    assert "\x1b" not in stdout
