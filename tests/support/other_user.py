"""Code that runs as a user without permissions, since tests may run as root, whom no permission stops."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.job import ROOT

# The imports come first, since the other user may not be allowed to read Python's own files.
AS_NOBODY = """
import os, sys
from pathlib import Path
{imports}
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[1])
{code}
"""


def lines_as_nobody(folder: Path, imports: str, code: str) -> list[str]:
    """Return what code prints as another user; `folder` is its only variable."""
    command = [sys.executable, "-c", AS_NOBODY.format(imports=imports, code=code), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@contextmanager
def visible_folder() -> Iterator[Path]:
    """Give a temporary folder that every user can read; that of pytest is only for the user who runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        try:
            yield Path(folder)
        finally:
            for path in Path(folder).rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
