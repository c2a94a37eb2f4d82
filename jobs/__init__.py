"""The commands that people and schedulers call: arguments, output and exit codes. Only this package prints."""

from pathlib import Path

# The source code that is sent to workers; its hash is stored with each model.
SOURCE_FOLDERS = [Path(__file__).parents[1] / package for package in ("jobs", "mnist_lib", "cluster")]
