"""From text of the command line, or from a value of a YAML file, to the value of an option, as its type says.

Each function raises ValueError for what cannot be such a value. Ranges are checked by `mnist_lib.settings`.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from msgspec import Meta

from mnist_lib.environment import text_of
from mnist_lib.settings import parts_of

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # ends a line, moves the cursor or ends a C string


def require_no_controls(value: Any) -> None:
    """Raise ValueError if text, or text in a list or mapping, contains a control character or a line separator."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            require_no_controls(part)
    elif found := CONTROL.search(str(value)):  # show only the character: the rest may be a secret
        raise ValueError(f"expected text without control characters, got {found[0]!r} in it; remove it")


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"expected text, got a value of type {type(value).__name__}; write it in quotes")


def comma_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in "a,b" or in a list."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"expected names such as a,b, got {value!r}")
    return tuple(part.strip() for part in parts if part.strip())


def seeds(value: str | int | Sequence[int]) -> tuple[int, ...] | int:
    """Return the number of seeds, as in "3", or the listed seeds, as in "4,8" or "4,"."""
    if isinstance(value, str) and "," in value:
        return tuple(whole_number(part) for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple):
        return tuple(map(whole_number, value))
    return whole_number(value)


def named_values(value: Any) -> Mapping[str, Any]:
    """Return the values in "width=64,activation=relu", whose types are guessed, in a JSON object, or in a mapping."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):  # the error below says what is expected
            value = json.loads(value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    parts = [part.partition("=") for part in re.split(r",(?=\s*\w+=)", str(value))]
    if not all(name.strip() and equals for name, equals, _ in parts):
        raise ValueError(f"expected NAME=VALUE, such as width=64, got {value!r}")
    return {name.strip(): plain_value(text.strip()) for name, _, text in parts}


def plain_value(text: str) -> int | float | bool | str:
    """Return the value that text looks like: true or false, a number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def whole_number(value: Any) -> int:
    if re.fullmatch(r"\s*[+-]?\d+\s*", str(value)):
        return int(value)
    raise ValueError(f"expected a whole number, got {value!r}")


def number(value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"expected a number, got {value!r}") from None


def yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {value!r}")


def moment(value: Any) -> str:
    """Return a time in UTC, to the second, as the store writes it. A time without a zone is UTC."""
    try:
        time = datetime.fromisoformat(str(value))
        return text_of(time.replace(tzinfo=time.tzinfo or UTC))
    except (ValueError, OverflowError):
        raise ValueError(f"expected a time such as 2026-11-25T03:00:00Z, got {value!r}") from None


def user_path(value: Any) -> Path:
    try:
        return Path(value if isinstance(value, Path) else text(value)).expanduser()
    except RuntimeError as error:  # no such user, as in ~nobody/file
        raise ValueError(f"expected a path, got {str(value)!r}: {error}") from None


def folder(value: Any) -> Path:
    """Return an absolute path, since tasks run in other folders."""
    return user_path(value).absolute()


def existing_folder(value: Any) -> Path:
    """Return the absolute path of a folder that exists: a mistyped name must not become an empty folder."""
    path = folder(value)
    with contextlib.suppress(OSError):  # such as a name that is too long
        if path.is_dir():
            return path
    hint = f"create it (mkdir -p {path}) or omit the option"
    raise ValueError(f"expected an existing folder, got {path}; {hint}")


def height_and_width(value: Any) -> tuple[int, int]:
    """Return height and width, from "28" (for both), "32x48" or a list."""
    parts = value if isinstance(value, list | tuple) else re.split("[x,]", str(value))
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"expected a size such as 28 or 32x48, got {value!r}")
    height, width = whole_number(parts[0]), whole_number(parts[-1])
    return height, width


# Types of options that are not read as Python's own type would be, with the name of the value in --help:
Moment = Annotated[str, moment, Meta(title="TIME")]
UserPath = Annotated[Path, user_path, Meta(title="PATH")]
Folder = Annotated[Path, folder, Meta(title="DIR")]
ExistingFolder = Annotated[Path, existing_folder, Meta(title="DIR")]

READERS: Mapping[Any, Callable[[Any], Any]] = {
    **{bool: yes_or_no, int: whole_number, float: number, str: text, Path: user_path},
    **{tuple: comma_list, Mapping: named_values},
}
METAVARS = {int: "N", float: "X", str: "NAME", tuple: "A,B", Mapping: "NAME=VALUE"}


def base_of(kind: Any) -> Any:
    """Return the Python type of the values of an option."""
    base, _ = parts_of(kind)
    return type(get_args(base)[0]) if get_origin(base) is Literal else get_origin(base) or base


def metavar_of(kind: Any) -> str:
    """Return what stands for the value of an option of this type in --help."""
    titles = [part.title for part in parts_of(kind)[1] if isinstance(part, Meta) and part.title]
    return titles[0] if titles else METAVARS[base_of(kind)]


def read(kind: Any, value: Any) -> Any:
    """Return the value of an option of this type. Raises ValueError for any other value."""
    functions = [part for part in parts_of(kind)[1] if callable(part)]
    return (functions[0] if functions else READERS[base_of(kind)])(value)


def as_word(value: Any) -> str:
    """Return a value as a word of a command line, which `read` turns into that value again."""
    if isinstance(value, Mapping):
        text = ",".join(f"{name}={as_word(word)}" for name, word in value.items())
        with contextlib.suppress(ValueError):
            if named_values(text) == value:
                return text
        return json.dumps(value, default=str)
    if not isinstance(value, list | tuple):
        return str(value)
    is_one_number = len(value) == 1 and isinstance(value[0], int)
    return ",".join(map(str, value)) + ("," if is_one_number else "")  # "4," is a list of seeds; "4" is a count
