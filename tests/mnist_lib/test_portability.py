"""What only Linux has is not needed: without these names and without /proc, pictures are read as with them.

It stands for macOS, on which nothing was tested.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.job import ROOT
from tests.support.pictures import classes, read, write_folder

# Python imports this in every process, those of the sandbox included.
WITHOUT = """
import os, time

for module, name in (
    (os, "sched_getaffinity"), (os, "memfd_create"), (os, "posix_fadvise"), (os, "preadv"), (os, "pidfd_open"),
    (time, "CLOCK_BOOTTIME"),
):
    delattr(module, name)


def without_proc(function):
    def refusing(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc/self"):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return function(path, *arguments, **options)

    return refusing


os.stat, os.readlink, os.open = map(without_proc, (os.stat, os.readlink, os.open))
"""


def test_pictures_are_read_without_what_only_linux_has(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b", size=(16, 16), pictures=60), "a/bad.png": b"x"})
    (tmp_path / "names").mkdir()
    (tmp_path / "names/sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path / "names"), str(ROOT)))}
    command = [sys.executable, "-m", "jobs.show", str(folder), "--data-dir", str(tmp_path), "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["fingerprint"] == read(folder).fingerprint
    assert [notice for notice in shown["notices"] if "a/bad.png" in notice]
    code = "import os, jobs.predict.__main__, mnist_lib.environment; print(hasattr(os, 'preadv'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("False"), done.stderr
