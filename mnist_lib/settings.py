"""Options and settings as dataclass fields: type with range, default, help text and use are declared once.

From the field follow the command line and configuration files (`jobs.console.options`), the checks of values, the terms
of a run, what may vary in a search, and what reports show.
"""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError

Use = Literal["in_terms", "varies", "stored"]  # see `option`

NOUNS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
MAX_SEED = 2**31 - 1  # every random generator here accepts it

Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, title="S", description="seconds, 0 or more")]


class OptionTraits(TypedDict, total=False):
    """What holds for an option, apart from its value."""

    positional: bool  # whether the value is given without the option's name; a tuple takes all remaining words
    required: bool  # whether the command refuses to run without it
    in_terms: bool  # whether the result of a run depends on it, apart from that of its trials
    varies: bool  # whether it may vary in a search
    stored: bool  # whether a run or a scheduler stores it; otherwise, it concerns one process
    in_file: bool  # whether a --config file may have it; otherwise, it can run any code


DEFAULT_TRAITS = OptionTraits(positional=False, required=False, in_terms=False, varies=False, stored=True, in_file=True)


def option(
    default: Any,
    help: str,
    metavar: str | None = None,
    *,
    name: str | None = None,
    short: Sequence[str] = (),
    **traits: Unpack[OptionTraits],
) -> Any:
    """Return the dataclass field of an option. A default of None stands for "not given", whatever the type.

    Args:
        metavar: stands for the value in --help; by default, it follows from the type.
        name: of the option, if it is not that of the field.
        short: one-letter names, such as `-v`.
        traits: see `OptionTraits`.
    """
    metadata = {"help": help, "metavar": metavar, "name": name, "short": short}
    return field(default=default, metadata={**metadata, **DEFAULT_TRAITS, **traits})


def one_of(known: Mapping[str, Any] | Collection[str]) -> Meta:
    """Return the constraint of a type whose values are these names."""
    return Meta(extra={"known": known})


def choices_of(kind: Any) -> Collection[str]:
    """Return the names that are the values of a type, or () if it has others."""
    return next((part.extra["known"] for part in parts_of(kind)[1] if isinstance(part, Meta) and part.extra), ())


def option_name(of: Field[Any]) -> str:
    return of.metadata.get("name") or of.name


def options_of(kind: Any, use: Use | None = None) -> dict[str, Field[Any]]:
    """Return the fields of a dataclass or of an instance by the names of their options: all, or those of a use.

    They are in the order of --help: grouped by `group_of`, those of a class before those of its base classes.
    """
    known = _fields_of(kind if isinstance(kind, type) else type(kind))
    return {option_name(f): f for f in known if use is None or f.metadata.get(use)}


@functools.lru_cache
def _fields_of(kind: type[Any]) -> list[Field[Any]]:
    owners = [_owner(kind, f) for f in fields(kind)]
    titles = [*dict.fromkeys(_title(owner) for owner in kind.__mro__ if owner in owners)]
    return sorted(fields(kind), key=lambda f: (titles.index(group_of(kind, f)), kind.__mro__.index(_owner(kind, f))))


def group_of(kind: type[Any], field: Field[Any]) -> str:
    """Return the title of an option's group in --help: `GROUP` of the class that has declared the option first."""
    return _title(_owner(kind, field))


def _owner(kind: type[Any], field: Field[Any]) -> type[Any]:
    return [base for base in kind.__mro__ if field.name in inspect.get_annotations(base)][-1]


def _title(owner: type[Any]) -> str:
    title: str = vars(owner).get("GROUP", "options")
    return title


def values_of(options: Any, use: Use | None = None) -> dict[str, Any]:
    """Return the values of options by name: all, or those of a use."""
    return {name: getattr(options, f.name) for name, f in options_of(options, use).items()}


def field_values(options: Any, kind: type[Any]) -> dict[str, Any]:
    """Return the values of those options that are fields of `kind`, from which they were inherited, by field."""
    return {f.name: getattr(options, f.name) for f in fields(kind)}


@dataclass(frozen=True, kw_only=True)
class CheckedFields:
    """A dataclass that cannot be built with a value outside the range of its type.

    `class Options(Base, without=["seed"])` lacks a field that its base class has; the attribute has its default.
    """

    GROUP: ClassVar[str] = "options"  # title of the options that a class adds, in --help

    def __init_subclass__(cls, without: Collection[str] = (), **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # To a dataclass, this replaces the field of the base class by something that is no field.
        cls.__annotations__.update(dict.fromkeys(without, ClassVar[Any]))

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(value: Any, *, complete: bool = False) -> None:
    """Raise SpecError for the first field whose value is not of its type or outside its range.

    Args:
        complete: whether None is refused even where it is the default, unless the type allows it.
    """
    kinds = types_of(type(value))
    for each in fields(value):
        content = getattr(value, each.name)
        if content is not None or complete or each.default is not None:
            require(option_name(each), content, kinds[each.name])


# The types of the fields of a dataclass, with their ranges.
types_of: Callable[[Any], dict[str, Any]] = functools.cache(functools.partial(get_type_hints, include_extras=True))


@functools.cache  # a space of a search has thousands of values to check
def parts_of(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without None and without `Annotated`, and the annotations."""
    annotations: tuple[Any, ...] = ()
    while True:
        options = [part for part in get_args(kind) if part is not types.NoneType]
        if get_origin(kind) is Annotated:
            kind, annotations = options[0], (*annotations, *kind.__metadata__)
        elif get_origin(kind) in (Union, types.UnionType) and len(options) == 1:
            (kind,) = options
        else:
            return kind, annotations


def require(name: str, value: object, kind: Any) -> None:
    """Raise SpecError unless the value is of the type and in its range. The message begins with `name`."""
    base, annotations = parts_of(kind)
    metas = [part for part in annotations if isinstance(part, Meta)]
    known = choices_of(kind)
    if known and isinstance(value, str):
        require_known(name, value, known)
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise SpecError(f"{name}: expected {_expected(base, metas)}, got {value!r:.100}") from None
    if get_origin(base) is tuple and isinstance(value, tuple) and parts_of(get_args(base)[0])[1]:
        for part in value:
            require(name, part, get_args(base)[0])


def _expected(base: Any, metas: Sequence[Meta]) -> str:
    """Return what a value of a type has to be, as in "a whole number from 1 to 64"."""
    for meta in metas:
        if meta.description:
            return meta.description
    if get_origin(base) is Literal:
        return " or ".join(map(str, get_args(base)))
    noun = NOUNS.get(base) or f"a value of type {getattr(base, '__name__', base)}"
    limits = {name: getattr(meta, name) for meta in metas for name in ("ge", "le", "lt") if meta.ge is not None}
    low = limits.get("ge")
    high = limits.get("le")
    below = limits.get("lt")
    if high is None and below is None:
        return noun if low is None else f"{noun}, {low} or more"
    return f"{noun} from {low} to {high if below is None else f'below {below}'}"
