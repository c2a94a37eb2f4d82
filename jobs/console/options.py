"""Parse command lines and configuration files into the fields of a dataclass, and choose a subcommand.

`learning_rate` is `--learning-rate` on the command line and `learning_rate:` in a --config file. Both are read into the
type of the field. argparse only splits the command line.
"""

import argparse
import difflib
import functools
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, get_args

import yaml

from jobs.console.exit_codes import UsageError
from jobs.console.output import print_result
from jobs.console.values import as_word, base_of, metavar_of, read, require_no_controls
from mnist_lib.catalog import require_known
from mnist_lib.settings import CheckedFields, choices_of, group_of, option, option_name, options_of, types_of

MAX_CONFIG_BYTES = 100_000
STORAGE_HELP = "folder or bucket for runs and models, such as results or s3://bucket/folder (also gs://, az://)"


@dataclass(frozen=True, kw_only=True)
class Options(CheckedFields):
    """The options of a command. The docstring of a subclass is the description in --help."""

    COMMANDS: ClassVar[str] = ""  # the subcommands in the usage line
    USAGE_TAIL: ClassVar[str] = "[OPTIONS]"  # ends the usage line
    # Another command's options, which a --config file may also contain, since several commands share it:
    SHARES_FILE_WITH: ClassVar[type[Any] | None] = None


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Options):
    storage: str = option("results", STORAGE_HELP, "DIR|URL")


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Options):
    json: bool = option(False, "print the result as one JSON document instead of text", stored=False)


@dataclass(frozen=True, kw_only=True)
class VerboseOptions(Options):
    verbose: bool = option(False, "log more, and print the traceback of an error", short=["-v"])


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return flags_text(action)


def flags_text(action: argparse.Action) -> str:
    """Return an option as a user types it. A flag that is on by default is shown with --no-NAME."""
    flags: Sequence[str] = action.option_strings
    if isinstance(action, argparse.BooleanOptionalAction) and "(default: on)" not in str(action.help):
        flags = [flag for flag in flags if not flag.startswith("--no-")]
    value = "" if action.nargs == 0 else action.metavar or "|".join(action.choices or ())
    return f"{', '.join(flags)} {value}".strip()


class _Parser(argparse.ArgumentParser):
    """Raises a UsageError of one line instead of exiting."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        if unknown and not unknown[1].startswith("-"):
            advice = "separate several values by commas, as in --models keras,scratch"
            raise UsageError(f"expected an option, got {unknown[1]!r}; {advice}")
        if unknown:
            raise self.unknown_option(unknown[1])
        raise UsageError(re.sub(r"^argument (\S+): ", r"\1: ", " ".join(message.split())))

    def unknown_option(self, flag: str) -> UsageError:
        """Return the error about an unknown flag, which suggests the most similar one."""
        name = flag.strip("-").replace("_", "-")
        known = [string.strip("-") for action in self._actions for string in action.option_strings]
        initials = [full for full in known if name == "".join(word[0] for word in full.split("-"))]  # --lr
        near = initials or difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        return UsageError(f"{' '.join(flag.split())} is not an option; {hint}--help lists all options")


def parser(program: str, options: type[Any]) -> _Parser:
    """Return the parser of a command line. It leaves out options that are not given, and does not convert values."""
    command = _Parser(
        prog=program,
        description=options.__doc__,
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,  # it would be listed first
    )
    types = types_of(options)
    words = ["python -m %(prog)s", *options.COMMANDS.split()]
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in options_of(options).values():
        title = group_of(options, field)
        group = groups.setdefault(title, groups.get(title) or command.add_argument_group(title))
        words += _add(group, field, types[field.name])
    group = command.add_argument_group("every command")
    group.add_argument("--config", metavar="FILE", help="YAML file of `option_name: value`; flags override it")
    group.add_argument("--version", action="version", version=_version(), help="print the version")
    group.add_argument("-h", "--help", action="help", help="print this help")
    command.usage = " ".join([*words, options.USAGE_TAIL])
    return command


def _add(group: argparse._ActionsContainer, field: Field[Any], kind: Any) -> list[str]:
    """Add an option to a parser, and return its words in the usage line.

    The default is appended to its help text, unless the text states it.
    """
    name = option_name(field)
    base = base_of(kind)
    default = field.default
    declared = field.metadata
    text = declared["help"].replace("%", "%%")
    has_default = default != () and not any(default is nothing for nothing in (None, False))
    if has_default and "(default: " not in text:
        text += f" (default: {','.join(map(str, default)) if isinstance(default, tuple) else default})"
    flags = [flag_of(name), *declared["short"]]
    if base is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, help=text)
        return []
    metavar = declared["metavar"] or metavar_of(kind)
    if declared["positional"]:
        group.add_argument(name, nargs="*" if base is tuple else "?", metavar=metavar, help=text)
        word = f"{metavar}..." if base is tuple else metavar
        return [word if declared["required"] else f"[{word}]"]
    # A mapping can be given several times.
    group.add_argument(*flags, action="append" if base is Mapping else "store", metavar=metavar, help=text)
    return [flags[0], metavar] if declared["required"] else []


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, which YAML 1.1 does not, and dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the base class
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":float", ":timestamp"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\d+\.\d*|\.\d+|\d+(?=e))(?:e[-+]?\d+)?|[-+]?\.inf|\.nan)$", re.ASCII | re.IGNORECASE),
    [*"-+.0123456789"],
)


def load_mapping(content: bytes, name: str) -> dict[str, Any]:
    """Return the options in the content of a YAML file, by name, with "_" for "-"; {} for an empty file.

    Raises:
        UsageError: it cannot be read; the message begins with `name`.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise UsageError(f"{name}: expected a file of at most {MAX_CONFIG_BYTES:,} bytes, got a larger one; shorten it")
    try:
        loaded = yaml.load(content, _Loader)  # a SafeLoader
    except Exception as error:  # also RecursionError, and ValueError for a tag such as !!timestamp
        # The full text of the error is not shown, since it can contain a secret from the file.
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"{name}: expected YAML in UTF-8, got an error{line}: {problem}; correct it") from None
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
    program: str, options: type[Any], arguments: Sequence[str], given: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """Return the options: the command line overrides the --config file, which overrides the defaults.

    Args:
        given: values that replace the defaults, as in a --config file.

    Raises:
        UsageError, SpecError: for an unknown name or a value of the wrong type or range.
    """
    files, words = split_config(arguments)
    command = parser(program, options)
    by_name = options_of(options)
    flags = vars(command.parse_args(words))
    values: dict[str, Any] = {}
    for content in (given, *map(read_config, files)):
        known = [name for name in content if _is_option(command, options, name)]
        values |= _read(options, {name: content[name] for name in known if content[name] is not None})
    for name, value in values.items():
        field = by_name[name]
        if not field.metadata["in_file"] and name not in flags and value != field.default:
            advice = f"since it can run any code; use {flag_of(name)}"
            raise UsageError(f"{name}: not accepted in a --config file, {advice}")
    for name, value in _read(options, flags).items():
        values[name] = {**(values.get(name) or {}), **value} if isinstance(value, Mapping) else value
    for name, field in by_name.items():
        if field.metadata["required"] and values.get(name) is None:
            names = ", ".join(choices_of(types_of(options)[field.name]))
            expected = f"one of {names}" if names else f"a value ({field.metadata['help']})"
            raise UsageError(f"{name}: expected {expected}, got none; see --help")
    return options(**{by_name[name].name: value for name, value in values.items() if value is not None})


def _is_option(command: _Parser, options: type[Any], name: str) -> bool:
    """Return whether an option in a file is one of this command, not of another command that shares the file."""
    if name == "config":
        raise UsageError("--config: expected no option `config` in a file; name each file with --config")
    if name in options_of(options):
        return True
    if options.SHARES_FILE_WITH is not None:
        return not _is_option(parser(command.prog, options.SHARES_FILE_WITH), options.SHARES_FILE_WITH, name)
    raise command.unknown_option(flag_of(name[:60]))


def _is_free_text(kind: Any) -> bool:
    return base_of(kind) is str and not choices_of(kind)


def _read(options: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, each read into its type. Text of the command line and values of a file are read alike."""
    by_name = options_of(options)
    types = types_of(options)
    values = dict[str, Any]()
    for name, value in content.items():
        field = by_name[name]
        kind = types[field.name]
        try:
            if not field.metadata["positional"]:  # the shell expands *.png, and a picture may have any name
                require_no_controls(value)
            if field.metadata["positional"] and base_of(kind) is tuple:
                words = value if isinstance(value, list) else [value]
                values[name] = tuple(read(get_args(kind)[0], word) for word in words)
            elif base_of(kind) is Mapping and isinstance(value, list):  # given several times
                values[name] = {key: part for word in value for key, part in read(kind, word).items()}
            elif field.metadata["varies"] and isinstance(value, str) and "," in value and not _is_free_text(kind):
                raise ValueError(f"expected one value, got {value!r}; to try several, use python -m jobs.search --vary")
            else:
                values[name] = read(kind, value)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    return values


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the --config files on a command line, and its other words. Raises UsageError if a file is missing."""
    words = iter(arguments)
    files = list[str]()
    others = list[str]()
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


@functools.cache
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
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            flags.append(f"--{name}={as_word(value)}")
    return flags
