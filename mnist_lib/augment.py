"""The setting `augment`: how training images are changed at each step. Its values are read without TensorFlow."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated

from msgspec import Meta

from mnist_lib.errors import SpecError
from mnist_lib.settings import check_fields, one_of

AUTO, EARLIER = "auto", "network"  # EARLIER: what releases without this setting did, as `auto` does for grey images
FLIPS = ("none", "horizontal", "vertical", "both")
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The largest changes of an image. Lengths are shares of its side. Each image is changed at random up to these.

    Raises:
        SpecError: a number is out of range, or `flip` is not known.
    """

    shift: Annotated[float, Meta(ge=0, le=0.5)] = 0.0  # along each axis
    rotate: Annotated[float, Meta(ge=0, le=180)] = 0.0  # degrees in each direction
    zoom: Share = 0.0  # each axis by a factor of up to exp(zoom), or down to exp(-zoom)
    flip: Annotated[str, one_of(FLIPS)] = "none"  # half of the images are mirrored along the axis
    brightness: Share = 0.0  # of 255, which is added or subtracted
    contrast: Share = 0.0  # the difference of the factor by which differences from the mean are multiplied
    erase: Share = 0.0  # the sides of a rectangle that gets the mean colour
    bend: Annotated[float, Meta(ge=0, le=0.1)] = 0.0  # the standard deviation of the offsets of a grid of 5 x 5 points
    stroke: Share = 0.0  # how much bright strokes become thicker or thinner: 1 is a pixel in each direction

    def __post_init__(self) -> None:
        check_fields(self)


PRESETS = {
    "none": Changes(),
    "digits": Changes(shift=0.05, rotate=8.0, zoom=0.08, bend=0.02, stroke=0.5),
    "photos": Changes(shift=0.1, zoom=0.2, brightness=0.2, contrast=0.2, erase=0.25),
}


def parse_augment(text: str) -> Changes | None:
    """Return the changes that a text names: presets and `name=value`, of which a later one replaces an earlier one.

    They are joined by commas or, where a comma separates values of a search, by `+`.

    Returns:
        None for AUTO and EARLIER, which depend on the network and the images.

    Raises:
        SpecError: a name is not known, or a value is out of range.
    """
    if text in (AUTO, EARLIER):
        return None
    known = {field.name for field in fields(Changes)}
    found: dict[str, object] = {}
    for part in text.replace("+", ",").split(","):
        name, separator, value = (each.strip() for each in part.partition("="))
        if name in PRESETS and not separator:
            found |= asdict(PRESETS[name])
        elif name in known and separator:
            found[name] = _value(name, value)
        else:
            expected = f"{AUTO}, {', '.join(PRESETS)}, or a list such as photos,flip=horizontal,rotate=10"
            names = ", ".join(sorted(known))
            raise SpecError(f"augment: expected {expected}, got {part[:100]!r}; names: {names}")
    try:
        return Changes(**found)  # type: ignore[arg-type]  # it checks them
    except SpecError as error:
        raise SpecError(f"augment: {error}") from error


def is_mirrored(text: str) -> bool:
    """Return whether training images are mirrored with this setting."""
    changes = parse_augment(text)
    return changes is not None and changes.flip != "none"


def _value(name: str, text: str) -> float | str:
    if name == "flip":
        return text
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"augment: {name}: expected a number, got {text[:100]!r}") from None
