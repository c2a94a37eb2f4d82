"""Command lines: what people and schedulers call. Arguments, printing and exit codes; the work is done elsewhere."""

from pathlib import Path

# What is sent to workers, and hashed as the code that a model was made with.
SOURCE_FOLDERS = [Path(__file__).parents[1] / package for package in ("jobs", "mnist_lib", "cluster")]
