"""Options as dataclass fields, the parser that is built from them, and the choice of a subcommand.

`learning_rate` is `--learning-rate` on the command line and `learning_rate:` in a --config file.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import jsonargparse
import yaml

from jobs.console.exit_codes import UsageError
from jobs.console.output import print_result
from jobs.console.values import named_values, require_no_controls, text
from mnist_lib.catalog import require_known

MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH = 100_000, 20
BEGINS = (
    *(yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken),
    *(yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken),
)
ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "TFDS_DATA_DIR")  # stand for options that are not given


def option(
    default: Any,
    help: str,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    short: Sequence[str] = (),
    positional: bool = False,
    several: bool = False,
    repeated: bool = False,
    typed: bool = False,
    outside: bool = False,
    known: Collection[str] = (),
) -> Any:
    """Return the dataclass field of one option.

    Args:
        parse: converts text from the command line or a value from a YAML file; None for a flag that is on or off.
        short: one-letter names, such as `-v`.
        positional: whether the value is given without the option's name; it may be omitted.
        several: whether a positional option takes all remaining words.
        repeated: whether the option can be given several times, each time adding to its value, a mapping.
        typed: whether the option is accepted on the command line only, since it can run any code.
        outside: whether a value names a file, code, or an address, so that it is not taken from a storage.
        known: the values of such an option that name something of this program, and are taken.
    """
    given: dict[str, Any] = {"help": help, "parse": parse, "metavar": metavar, "short": short}
    given |= {"positional": positional, "several": several, "repeated": repeated, "typed": typed}
    given |= {"outside": outside, "known": known}
    return dataclasses.field(default=default, metadata=given)


class _Add(argparse.Action):
    """Adds a mapping to the one that the option already has."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **values})


class _Help(argparse.HelpFormatter):
    """Adds the default to each help text that does not state it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = str(action.help), action.default
        none = default == () or any(default is nothing for nothing in (None, False, argparse.SUPPRESS))
        if none or "(default: " in text:
            return text
        return f"{text} (default: {','.join(map(str, default)) if isinstance(default, tuple) else default})"


class _Parser(jsonargparse.ArgumentParser):
    """Raises a UsageError of one line instead of exiting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message, re.IGNORECASE)
        if unknown and not unknown[1].startswith("-"):
            advice = "separate several values by commas, as in --models keras,scratch"
            raise UsageError(f"expected an option, got {unknown[1]!r}; {advice}")
        if unknown:
            raise self.unknown_option(unknown[1])
        raise UsageError(re.sub(r'Parser key "(\w+)":', r"\1:", " ".join(message.split())))

    def unknown_option(self, flag: str) -> UsageError:
        """Return the error about a flag that is not one of an option, with the most similar one."""
        name = flag.strip("-").replace("_", "-")
        known = [string.strip("-") for action in self._actions for string in action.option_strings]
        near = [full for full in known if "-" in full and _abbreviates(name.replace("-", ""), full.split("-"))]
        near = near or difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        return UsageError(f"{' '.join(flag.split())} is not an option; {hint}--help lists all options")


def parser(program: str, options: type[Any], left_out: Collection[str] = (), hidden: Collection[str] = ()) -> _Parser:
    fields = [field for field in dataclasses.fields(options) if field.name not in left_out]
    positional = [field.metadata for field in fields if field.metadata["positional"]]
    words = [f"[{given['metavar']}{'...' if given['several'] else ''}]" for given in positional]
    made = _Parser(
        prog=program,
        usage=" ".join(["python -m %(prog)s", *words, "[OPTIONS]"]),
        description=options.__doc__,
        formatter_class=_Help,
        print_config=None,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=_version(), help="print the version")
    made.add_argument("--config", metavar="FILE", help="YAML file of `option_name: value`; flags override it")
    for field in fields:
        name, given = f"--{field.name.replace('_', '-')}", field.metadata
        common: dict[str, Any] = {
            "default": field.default,
            "help": argparse.SUPPRESS if field.name in hidden else given["help"],
        }
        if given["parse"] is None:
            yes_no = jsonargparse.ActionYesNo(no_prefix="no-")  # --no-json overrides `json: true` in a file
            made.add_argument(name, *given["short"], action=yes_no, **common)
            continue
        common |= {"type": _checked(given["parse"], given["several"]), "metavar": given["metavar"]}
        if given["positional"]:
            made.add_argument(field.name, nargs="*" if given["several"] else "?", **common)
        elif given["repeated"]:
            made.add_argument(name, action=_Add, **common)
        else:
            made.add_argument(name, **common)
    return made


def _checked(parse_value: Callable[[Any], Any], several: bool) -> Callable[[Any], Any]:
    """Return `parse_value` with a check that refuses control characters in the value.

    Values of an option that takes several are not checked: the shell may make them from *.png, and the other files must
    be read even if one has an odd name.
    """

    @functools.wraps(parse_value)
    def parse_checked(value: Any) -> Any:
        if not several:
            require_no_controls(value)
        return parse_value(value)

    return text if parse_value is str else parse_checked


def load_yaml(text: str) -> Any:
    """Load YAML; refuse deep nesting and aliases, which could keep the parser busy for hours.

    Raises yaml.YAMLError, whose message does not contain the text, which can hold the secret of `notify`.
    """
    depth = 0
    try:
        for token in yaml.scan(text):
            if isinstance(token, yaml.AliasToken):
                raise yaml.YAMLError("expected no YAML aliases such as *name; repeat the value instead")
            depth += isinstance(token, BEGINS) - isinstance(token, ENDS)
            if depth > MAX_CONFIG_DEPTH:
                raise yaml.YAMLError(
                    f"expected at most {MAX_CONFIG_DEPTH} lists or mappings in one another, got more; simplify it"
                )
        return _load_any_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise yaml.YAMLError(f"{error.problem}{line}") from None
    except yaml.reader.ReaderError:  # whose message contains the text
        raise yaml.YAMLError("expected printable text, got a character that YAML does not allow; remove it") from None
    except yaml.YAMLError:
        raise
    except Exception as error:  # a tag that does not allow its value, such as !!timestamp x
        raise yaml.YAMLError(f"expected values of options, got a {type(error).__name__}") from None


_load_any_yaml = jsonargparse.get_loader("yaml")


def load_mapping(content: bytes, name: str) -> dict[str, Any]:
    """Return the options in the content of a YAML file, by name, with "_" for "-"; {} for an empty file.

    Raises:
        UsageError: it cannot be read; the message begins with `name`.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise UsageError(f"{name}: expected a file of at most {MAX_CONFIG_BYTES:,} bytes, got a larger one; shorten it")
    try:
        loaded = load_yaml(content.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{name}: expected a file in UTF-8, got other bytes; convert it") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: {error}") from None
    if loaded is not None and not (isinstance(loaded, Mapping) and all(isinstance(key, str) for key in loaded)):
        raise UsageError(f"{name}: expected `option_name: value` on each line, got something else; correct it")
    return {key.replace("-", "_"): value for key, value in (loaded or {}).items()}


def read_config(path: str) -> dict[str, Any]:
    """Return the options in a --config file, by name. Raises UsageError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--config: expected a YAML file, got an error: {reason}: {path}; check its path") from None
    return load_mapping(content, "--config")


def parse(
    program: str,
    options: type[Any],
    arguments: Sequence[str],
    left_out: Collection[str] = (),
    hidden: Collection[str] = (),
    stored: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Return the options: the command line overrides the --config file, which overrides the defaults.

    Args:
        stored: values that replace the defaults, as in a --config file.
        left_out: fields that are not options of this command; they have their default values.
        hidden: fields that --help does not list.

    Raises:
        UsageError: for an unknown name or a value of the wrong type.
    """
    for name in VARIABLES:
        try:
            require_no_controls(os.environ.get(name, ""))
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    files, words = split_config(arguments)
    made = parser(program, options, left_out, hidden)
    for content in (stored, *map(read_config, files)):
        made.set_defaults(_parsed(made, options, content, left_out))  # flags override files
    namespace = made.parse_args(words)
    flags = {word.partition("=")[0] for word in words}
    given = {}
    for field in dataclasses.fields(options):
        if field.name not in left_out and namespace[field.name] is not None:  # None (null in a file): the default
            given[field.name] = namespace[field.name]
            flag = f"--{field.name.replace('_', '-')}"
            if field.metadata["typed"] and given[field.name] != field.default and flag not in flags:
                raise UsageError(
                    f"{field.name}: not accepted in a --config file, since it can run any code; use {flag}"
                )
    return options(**given)


def _parsed(made: _Parser, options: type[Any], content: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """Return the values of options in a file, each parsed by the type of its option. Raises UsageError."""
    known = {field.name: field.metadata for field in dataclasses.fields(options) if field.name not in left_out}
    values = {}
    for name, value in content.items():
        if name == "config":
            raise UsageError("--config: expected no option `config` in a file; name each file with --config")
        if name not in known:
            raise made.unknown_option(f"--{name[:60].replace('_', '-')}")
        parse_value = known[name]["parse"] or _yes_or_no
        try:
            if value is not None:  # null stands for the default
                values[name] = _checked(parse_value, known[name]["several"])(value)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    return values


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {value!r}")


def names_outside(options: Any, name: str) -> bool:
    """Return whether an option, other than by its default, names something that is not taken from a storage."""
    field, value = options.__dataclass_fields__[name], getattr(options, name)
    if not field.metadata["outside"] or value == field.default:
        return False
    return not all(part in field.metadata["known"] for part in (value if isinstance(value, tuple) else [value]))


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files of --config of a command line, and its other words. Raises UsageError if a file is missing."""
    words, files, others = iter(arguments), list[str](), list[str]()
    for word in words:
        name, equals, file = word.partition("=")
        if name != "--config":
            others.append(word)
            continue
        files.append(file if equals else next(words, ""))
        if not files[-1]:
            raise UsageError("--config: expected a YAML file, got none; name it after --config")
    return files, others


def split_subcommand(program: str, about: Mapping[str, str | None], arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the subcommand that the arguments begin with, and the arguments after it.

    Args:
        about: the help text of each subcommand, and of "" if the program can run without a subcommand.

    Raises:
        SystemExit: --help or --version was given, and its output has been printed.
        SpecError: there is no such subcommand.
    """
    name, *others = arguments or [""]
    if "" in about and (not name or name.startswith("-")):
        return "", list(arguments)
    if name == "--version":
        print_result(_version())
        sys.exit()
    if name in ("", "-h", "--help"):
        width = max(map(len, about))
        lines = [f"  {command:{width}}  {' '.join((text or '').split())}".rstrip() for command, text in about.items()]
        print_result("\n".join([f"usage: {program} COMMAND [OPTIONS]", "", *lines]))
        sys.exit()
    require_known("command", name, [command for command in about if command])
    return name, others


def _version() -> str:
    try:
        return f"mnist-jobs {metadata.version('mnist-jobs')}"
    except metadata.PackageNotFoundError:  # run from a folder of source code, as in a submitted job
        return "mnist-jobs (not installed)"


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before "--", and those after it, which are the options of another command."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """Return options as the flags of a command line. Values may be parsed options, or plain ones from a YAML file."""
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
    if isinstance(value, Mapping):
        text = ",".join(f"{name}={_word(word)}" for name, word in value.items())
        with contextlib.suppress(ValueError):
            if named_values(text) == value:
                return text
        return json.dumps(value, default=str)
    if not isinstance(value, list | tuple):
        return str(value)
    is_one_number = len(value) == 1 and isinstance(value[0], int)
    return ",".join(map(str, value)) + ("," if is_one_number else "")  # "4," is a list of seeds; "4" is a count


def _abbreviates(letters: str, words: Sequence[str]) -> bool:
    """Return whether the letters abbreviate the words, as "lr" and "learnrate" abbreviate "learning" and "rate"."""
    if not words:
        return not letters
    return any(
        letters.startswith(words[0][:n]) and _abbreviates(letters[n:], words[1:]) for n in range(1, len(words[0]) + 1)
    )
