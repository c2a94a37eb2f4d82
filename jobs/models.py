"""`python -m jobs.models COMMAND`: what is stored, which version is in use and why; promote, roll back, verify."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jobs import exits
from jobs import models_commands as commands
from jobs import models_options as options
from jobs.options import parse
from mnist_lib.catalog import require_known

COMMANDS: dict[str, tuple[type[options.StoreOptions], Callable[[Any], commands.Told]]] = {
    "list": (options.ModelOptions, commands.list_versions),
    "show": (options.VersionOptions, commands.show),
    "diff": (options.DiffOptions, commands.diff),
    "champion": (options.ChampionOptions, commands.show_champion),
    "history": (options.HistoryOptions, commands.show_history),
    "promote": (options.PromoteOptions, commands.promote_version),
    "rollback": (options.RollbackOptions, commands.roll_back),
    "verify": (options.VerifyOptions, commands.verify_versions),
    "evaluate": (options.EvaluateOptions, commands.evaluate),
    "gc": (options.CollectOptions, commands.collect_garbage),
}


def main(arguments: Sequence[str] | None = None) -> int:
    return exits.run(models, sys.argv[1:] if arguments is None else arguments)


def models(arguments: Sequence[str]) -> int:
    name, *others = arguments or ["--help"]
    if name in ("-h", "--help"):
        listing = "\n".join(f"  {command:9} {kind.__doc__}" for command, (kind, _) in COMMANDS.items())
        exits.print_result(f"usage: python -m jobs.models COMMAND [OPTIONS]\n\n{listing}")
        return exits.DONE
    require_known("command", name, COMMANDS)
    kind, command = COMMANDS[name]
    given = parse(f"jobs.models {name}", kind, others)
    told = command(given)
    exits.print_result(json.dumps(told.document, indent=2) if given.json else told.text)
    return told.exit_code


if __name__ == "__main__":
    sys.exit(main())
