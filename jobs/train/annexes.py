"""What follows on a run besides its stored models, as modules by name, each of which may be left out.

A module begins to load what it needs (`load_in_background`), adds what it makes of a finished run (`add`), and brings
what it makes of all runs up to date (`update`). A failure in it is a warning, since the models are already stored.
"""

import importlib
from types import ModuleType

ANNEXES = {"writing the report": "jobs.train.reporting"}  # what a terminal shows meanwhile -> module


def annexes(*, wanted: bool = True) -> dict[str, ModuleType]:
    """Return the modules by what they do; none unless they are wanted."""
    return {text: importlib.import_module(name) for text, name in ANNEXES.items()} if wanted else {}
