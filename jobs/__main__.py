"""`mnist-jobs COMMAND`, the same as `python -m jobs.COMMAND`."""

import difflib
import importlib
import sys

COMMANDS = {
    "show": "a dataset, before one trains on it",
    "train": "train the models, report their accuracy, store them",
    "submit": "send that to a cluster as a job, follow it, stop it",
    "retrain": "that by a timetable: a daemon, or a step of another scheduler",
    "predict": "which digits are on pictures, by a stored model",
    "rehearse": "train on several nodes of this machine while workers are killed at random",
    "doctor": "what would keep a run from working, here and on every node",
    "models": "what is stored: list, diff, champion, history, promote, rollback, verify, export",
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        module = importlib.import_module(f"jobs.{name}")
        if hasattr(module, "__path__"):  # a package
            module = importlib.import_module(f"jobs.{name}.__main__")
        return int(module.main(sys.argv[2:]))
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if near:
        print(f"error[E-USAGE] {name} is not a command; did you mean {near[0]}?", file=sys.stderr)
        return 2
    listing = "\n".join(f"  {command:10} {about}" for command, about in COMMANDS.items())
    asked = name in ("-h", "--help")
    print(f"usage: mnist-jobs COMMAND [OPTIONS]\n\n{listing}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
