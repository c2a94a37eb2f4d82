"""`python -m jobs.models COMMAND`: what is stored, which version is in use and why; promote, roll back, verify."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jobs.console.options import parse, split_subcommand
from jobs.console.output import CommandResult, print_result, printable, run_command
from jobs.models import changes as models_change
from jobs.models import compute as models_compute
from jobs.models import diff as models_diff
from jobs.models import options
from jobs.models import queries as models_read
from mnist_lib.store.objects import Objects
from mnist_lib.store.storage import open_storage

COMMANDS: dict[str, tuple[type[options.StoreOptions], Callable[[Any, Objects], CommandResult]]] = {
    "list": (options.ModelOptions, models_read.list_versions),
    "show": (options.ShowOptions, models_read.show),
    "diff": (options.DiffOptions, models_diff.diff),
    "champion": (options.ChampionOptions, models_read.show_champion),
    "history": (options.HistoryOptions, models_read.show_history),
    "promote": (options.PromoteOptions, models_change.promote),
    "rollback": (options.RollbackOptions, models_change.rollback),
    "verify": (options.VerifyOptions, models_read.verify_versions),
    "evaluate": (options.EvaluateOptions, models_compute.evaluate),
    "reproduce": (options.ReproduceOptions, models_compute.reproduce),
    "export": (options.ExportOptions, models_compute.export),
    "gc": (options.CollectOptions, models_change.collect_garbage),
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(models, sys.argv[1:] if arguments is None else arguments)


def models(arguments: Sequence[str]) -> int:
    about = {name: kind.__doc__ for name, (kind, _) in COMMANDS.items()}
    name, others = split_subcommand("python -m jobs.models", about, arguments)
    kind, command = COMMANDS[name]
    given = parse(f"jobs.models {name}", kind, others)
    result = command(given, open_storage(given.storage))
    print_result(json.dumps(result.document, indent=2) if given.json else printable(result.text))
    if result.afterwards is not None:
        result.afterwards()
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
