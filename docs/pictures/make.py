"""Take the pictures of the README from a real run: `make pictures`. Needs Chromium.

Six trials are trained in a recorded terminal, which is drawn as it was halfway through the training. Then a screenshot
of their report is taken. The final output is printed, to be copied into the README.
"""

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).parent
COMMAND = ("-m", "jobs.train", "--seeds", "3", "--epochs", "40")
COLUMNS, ROWS = 100, 40
REPORT_SIZE = (1200, 1040)  # CSS pixels, from the top of the page
COLOURS = 128
CONTROL = re.compile(r"\r\n|\r|\n|\x1b\[(\d*)A|\x1b\[2K|\x1b\[\?25[lh]")  # what rich's live display uses


def record(folder: Path) -> list[tuple[float, str]]:
    """Train in a pseudo-terminal, and return what was written to it, each write with its time.

    Args:
        folder: working folder of the run.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        [sys.executable, *COMMAND], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = []
    while True:
        try:
            content = os.read(master, 65536)
        except OSError:  # the last process has closed the terminal
            break
        if not content:
            break
        written.append((time.monotonic(), content.decode(errors="replace")))
    os.close(master)
    if process.wait():
        raise SystemExit("the run failed:\n" + "".join(text for _, text in written))
    return written


def screen(text: str) -> str:
    """Return the lines that a terminal shows after this text, with their colours."""
    lines, row, begin = [""], 0, 0
    for control in CONTROL.finditer(text):
        lines[row] += text[begin : control.start()]
        begin = control.end()
        if control[0].endswith("\n"):
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif control[0].endswith("A"):
            row = max(0, row - int(control[1] or 1))
        elif control[0].endswith("2K"):
            lines[row] = ""
    lines[row] += text[begin:]
    return "\n".join(lines).rstrip()


def terminal_at_half(written: list[tuple[float, str]]) -> str:
    """Return the screen in the middle of the time during which the live table was shown."""
    drawn = [at for at, text in written if "\x1b[1A" in text]
    half = (drawn[0] + drawn[-1]) / 2
    return screen("".join(text for at, text in written if at <= half))


def take_screenshot(browser: Browser, page: Path, size: tuple[int, int], picture: Path) -> None:
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]}, device_scale_factor=2, color_scheme="light")
    tab.goto(page.as_uri())
    screenshot = Image.open(io.BytesIO(tab.screenshot()))
    screenshot.convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    tab.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        written = record(folder)
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(Text.from_ansi(terminal_at_half(written)))
        drawing = folder / "terminal.svg"
        console.save_svg(str(drawing), title="python " + " ".join(COMMAND))
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.read_text())[0])
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take_screenshot(browser, drawing, (round(width), round(height)), FOLDER / "terminal.png")
        (report,) = folder.glob("results/runs/*/report.html")
        take_screenshot(browser, report, REPORT_SIZE, FOLDER / "report.png")
        browser.close()
        print(Text.from_ansi(screen("".join(text for _, text in written))).plain.replace(f"{folder}/", ""))


if __name__ == "__main__":
    main()
