"""`python -m jobs.models COMMAND`: list, compare, verify, promote, export and delete stored versions."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jobs.console.options import parse, split_subcommand
from jobs.console.output import CommandResult, entry_point
from jobs.console.terminal import step
from jobs.models import commands, comparison, compute, options
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import open_storage

COMMANDS: dict[str, tuple[type[options.StoreOptions], Callable[[Any, Objects], CommandResult]]] = {
    "list": (options.ListOptions, commands.list_versions),
    "show": (options.ShowOptions, commands.show),
    "diff": (options.DiffOptions, comparison.diff),
    "champion": (options.ChampionOptions, commands.show_champion),
    "history": (options.HistoryOptions, commands.show_history),
    "promote": (options.PromoteOptions, commands.promote),
    "accept": (options.AcceptOptions, commands.accept_dataset),
    "rollback": (options.RollbackOptions, commands.rollback),
    "verify": (options.VerifyOptions, commands.verify_versions),
    "evaluate": (options.EvaluateOptions, compute.evaluate),
    "reproduce": (options.ReproduceOptions, compute.reproduce),
    "export": (options.ExportOptions, compute.export),
    "gc": (options.CollectOptions, commands.collect_garbage),
}
OPTIONS = {name: kind for name, (kind, _) in COMMANDS.items()}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    about = {name: kind.__doc__ for name, kind in OPTIONS.items()}
    name, others = split_subcommand("python -m jobs.models", about, arguments)
    kind, command = COMMANDS[name]
    parsed = parse(f"jobs.models {name}", kind, others)
    with step(f"running {name}"), contextlib.redirect_stdout(sys.stderr):  # a user's model may print
        return replace(command(parsed, open_storage(parsed.storage)), json=parsed.json)


if __name__ == "__main__":
    sys.exit(main())
