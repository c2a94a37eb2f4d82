"""The digits that are part of this package, as TensorFlow Datasets builders."""

from pathlib import Path

FOLDER = Path(__file__).parent
