"""How Keras is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib.environment import KERAS_IMPORTS_IF_INSTALLED

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.long
def test_keras_is_imported_without_the_optional_packages_that_it_looks_for(tmp_path: Path) -> None:
    """Packages of these names write their names to a file when they are imported."""
    for name in KERAS_IMPORTS_IF_INSTALLED:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')")
    code = "from mnist_lib.environment import import_keras; import_keras()"
    plain = "import keras"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-c", plain], env=environment, capture_output=True)
    assert (tmp_path / "imported").exists(), "Keras no longer imports these packages: delete the list"


@pytest.mark.long
@pytest.mark.slow
def test_hidden_packages_can_be_imported_afterwards() -> None:
    code = (
        "import sys; from mnist_lib.environment import import_keras; import_keras();"
        "assert None not in sys.modules.values()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
