"""Options as fields of a dataclass, and the parser that is made from them.

`learning_rate` is `--learning-rate` on the command line and `learning_rate:` in a --config file.
"""

import argparse
import dataclasses
import difflib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jsonargparse
import yaml

from jobs.console.exit_codes import UsageError

MOST_CONFIG = 100_000  # characters


def option(
    default: Any,
    help: str,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    short: Sequence[str] = (),
    positional: bool = False,
    several: bool = False,
) -> Any:
    """`parse` None: a flag that is on or off. A positional one may be left out, and is `default` then; `several`: it
    takes all words that are left."""
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "parse": parse,
            "metavar": metavar,
            "short": short,
            "positional": positional,
            "several": several,
        },
    )


class _Help(argparse.HelpFormatter):
    """Names the default, unless the help does or there is none to tell."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = str(action.help), action.default
        none = default == () or any(default is nothing for nothing in (None, False, argparse.SUPPRESS))
        if none or "(default: " in text:
            return text
        return f"{text} (default: {','.join(default) if isinstance(default, tuple) else default})"


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line, as an exception."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(_one_line(message, [name for action in self._actions for name in action.option_strings]))


def parser(program: str, options: type[Any]) -> jsonargparse.ArgumentParser:
    words = [
        f"[{field.metadata['metavar']}{'...' if field.metadata['several'] else ''}]"
        for field in dataclasses.fields(options)
        if field.metadata["positional"]
    ]
    made = _Parser(
        prog=program,
        usage=" ".join(["python -m %(prog)s", *words, "[OPTIONS]"]),
        description=options.__doc__,
        formatter_class=_Help,
        print_config=None,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config", action="config", metavar="FILE", help="options as YAML, without the dashes; flags override them"
    )
    for field in dataclasses.fields(options):
        name, given = f"--{field.name.replace('_', '-')}", field.metadata
        if given["positional"]:
            made.add_argument(
                field.name,
                nargs="*" if given["several"] else "?",
                type=given["parse"],
                default=field.default,
                metavar=given["metavar"],
                help=given["help"],
            )
        elif given["parse"] is None:
            yes_no = jsonargparse.ActionYesNo(no_prefix="no-")  # --no-json overrides a file
            made.add_argument(name, *given["short"], action=yes_no, default=field.default, help=given["help"])
        else:
            made.add_argument(
                name, type=given["parse"], default=field.default, metavar=given["metavar"], help=given["help"]
            )
    return made


def _load_yaml(text: str) -> Any:
    """What a person would write: neither long enough to keep the parser busy, nor growing as it is read."""
    if len(text) > MOST_CONFIG:
        raise yaml.YAMLError(f"expected a file of at most {MOST_CONFIG:,} characters, got {len(text):,}")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise yaml.YAMLError("expected no aliases, as in *name; write the value again")
    return _load_any_yaml(text)


_load_any_yaml = jsonargparse.get_loader("yaml")
jsonargparse.set_loader("yaml", _load_yaml, (yaml.YAMLError,))


def parse(program: str, options: type[Any], arguments: Sequence[str]) -> Any:
    """The options of the command line, over those of --config, over the defaults.

    Raises:
        UsageError: for an unknown name or a value of the wrong type.
    """
    namespace = parser(program, options).parse_args(list(arguments))
    given = {field.name: namespace[field.name] for field in dataclasses.fields(options)}
    return options(**{name: value for name, value in given.items() if value is not None})  # null: its default


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is before "--", and what is after it: the options of another command."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """As YAML has them -> for a command line."""
    flags = []
    for key, value in options.items():
        if not isinstance(key, str):
            raise UsageError(f"expected the name of an option, got {key!r}")
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            flags.append(f"--{name}={_word(value)}")
    return flags


def _word(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ",".join(map(str, value)) + ("," if len(value) == 1 else "")  # "4" would be a count


def _one_line(message: str, flags: Sequence[str]) -> str:
    unknown = re.match(r"unrecognized arguments: ([^\s=]+)|Option '(\w+)' is not accepted", message, re.IGNORECASE)
    if unknown:
        flag = unknown[1] or f"--{unknown[2].replace('_', '-')}"
        near = difflib.get_close_matches(flag, flags, n=1)
        return f"{flag} is not an option; {f'did you mean {near[0]}? ' if near else ''}--help lists all"
    return re.sub(r'Parser key "(\w+)":', r"\1:", " ".join(message.split()))
