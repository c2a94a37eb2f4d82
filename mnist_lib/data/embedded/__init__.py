"""The digits that lie in the package, as TensorFlow Datasets builders."""

from pathlib import Path

FOLDER = Path(__file__).parent
