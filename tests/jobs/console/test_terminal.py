"""What a terminal shows: the current step, log lines above it, and the live table of a run."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.bounds import JOB_SECONDS, STOP_SECONDS
from tests.support.hostile import CONTROLS
from tests.support.job import ROOT


def shown_on_terminal(*command: str | Path, columns: int = 80, **environment: str) -> tuple[int, str, str]:
    """Run a command with standard error on a terminal; return its exit code, standard error and standard output."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=its,
        text=True,
    )
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # raised when the other end is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    printed, _ = process.communicate(timeout=JOB_SECONDS)
    return process.returncode, shown.decode(), printed


STEPS = """
import logging, sys, time
from jobs.console.output import *
from jobs.console.terminal import step
from mnist_lib.wording import Progress
assert "rich" not in sys.modules

def command(_):
    log_to_stderr(verbose=False)
    with step("outer step"):
        time.sleep(0.3)
        logging.getLogger("jobs").info("a log line")
        with step("inner step") as show:
            time.sleep(0.3)
            show(Progress.of("pictures", 1, 4, seconds=5))
            print_stderr("a printed line")
            time.sleep(0.3)
        time.sleep(0.3)
    with step("hidden step", shown=False):
        time.sleep(0.3)
    assert "rich" not in sys.modules
    return 0

sys.exit(entry_point(command)([]))
"""

# Each step lasts for two frames: long enough to show one.
QUICK_STEPS = STEPS.replace("0.3", "0.2")


def test_a_step_has_a_spinner_and_lines_are_printed_above_it() -> None:
    code, shown, _ = shown_on_terminal("-c", STEPS)
    assert code == 0, shown
    erase = "\r\x1b[2K"
    frames = shown.replace("\r\n", "\n").split(erase)
    outer = [frame for frame in frames if frame.endswith("outer step")]
    assert len({frame[0] for frame in outer}) > 2  # the spinner moves
    assert any(frame.endswith("inner step") for frame in frames)
    assert any("inner step: ━━━━━━────────────────── 1 of 4 pictures, 15 s left" in frame for frame in frames)
    assert "a log line\n" in frames
    assert "a printed line\n" in frames
    assert "hidden step" not in shown
    assert frames[-1] == ""  # the last step is erased
    assert "\x1b[?25l" not in shown


HOSTILE_STEPS = """
import logging, sys, time
from jobs.console.output import *
from jobs.console.terminal import step
from jobs.train import display
from jobs.train.display import RunProgress
from mnist_lib.results import TrialStarted
from mnist_lib.spec import trial_grid
from tests.support.hostile import HOSTILE

def command(_):
    log_to_stderr(verbose=False)
    with step(HOSTILE) as show:
        show(HOSTILE)
        time.sleep(0.3)
    progress = RunProgress(trial_grid(("keras",), [0], dataset="mnist-mini", epochs=10))
    with display.display(progress):
        started = TrialStarted(trial="keras-s0", pid=1, node=HOSTILE, devices=(), gpus=(), resumed_after=0)
        progress.update(started, lambda trial: 1)
        logging.getLogger("jobs").info("logged %s", HOSTILE)
        print_stderr(f"printed {HOSTILE}")
        sys.stderr.write(f"written {HOSTILE}")
        time.sleep(0.5)
    return 0

sys.exit(entry_point(command)([]))
"""


def test_text_of_others_is_escaped_in_a_step_in_the_live_table_and_above_it() -> None:
    code, shown, _ = shown_on_terminal("-c", HOSTILE_STEPS, columns=200)
    assert code == 0, shown
    for place in ("logged ", "printed ", "written "):
        assert place + r"b\x1b]0;x\x07" in shown
    assert not [control for control in CONTROLS if control in shown and control not in "\r\b"]


@pytest.mark.parametrize("term", ["dumb", pytest.param("unknown", marks=pytest.mark.slow)])
def test_a_terminal_that_cannot_move_its_cursor_shows_lines_only(term: str) -> None:
    code, shown, _ = shown_on_terminal("-c", QUICK_STEPS, TERM=term)
    assert (code, shown.replace("\r\n", "\n")) == (0, "a log line\na printed line\n")


def test_without_a_terminal_only_lines_are_printed() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK_STEPS], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "a log line\na printed line\n")


def test_a_lost_terminal_does_not_end_a_step() -> None:
    ours, its = pty.openpty()
    code = "import time\nfrom jobs.console.terminal import step\nwith step('a step'): time.sleep(1)\nprint('done')"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=its, text=True)
    os.close(its)
    os.read(ours, 100)
    os.close(ours)
    assert process.communicate(timeout=STOP_SECONDS)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_terminal_shows_a_step_while_ray_is_loaded(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "jobs.train", "--models=scratch", f"--storage={tmp_path}"]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=its)
    os.close(its)
    shown = os.read(ours, 1000).decode()
    used = psutil.Process(process.pid).cpu_times()
    process.kill()
    process.wait()
    os.close(ours)
    assert "loading Ray" in shown
    assert used.user + used.system < 1


@pytest.mark.long
@pytest.mark.slow
def test_a_terminal_shows_a_live_table_and_stdout_gets_only_the_result(data_dir: Path, tmp_path: Path) -> None:
    options = [
        "--models=scratch",
        "--epochs=10",
        "--no-report",
        f"--data-dir={data_dir}",
        f"--storage={tmp_path}/results",
    ]
    code, shown, printed = shown_on_terminal("-m", "jobs.train", *options, HOME=str(tmp_path))
    assert code == 0, shown
    for text in ("starting Ray", "importing TensorFlow", "trial", "validation", "/10", "1 running"):
        assert text in shown
    assert "\x1b[?25l" not in shown  # the cursor is not hidden: a killed driver could not show it again
    assert shown.endswith("\x1b[2K")  # the table and the last step are erased
    assert printed.startswith("Accuracy on the 1,000 test images")
    assert "\x1b" not in printed
