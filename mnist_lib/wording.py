"""How counts, shares, durations, errors and names are written for people, the same in every command and report."""

MAX_REASON = 300  # characters of an error's message
MAX_SHORT_NAME = 24  # characters of a name in a picture


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 trial", "2 classes", "1,000 trials"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def percent(share: float) -> str:
    """Return a share of 1 as a percentage with two decimals: 0.97134 is "97.13%"."""
    return f"{share:.2%}"


def duration(seconds: float) -> str:
    """Return seconds as "45 s", "3:05" or "2:03:05"."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, seconds = divmod(rounded, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def one_line(error: BaseException) -> str:
    """Return what an error's message says is wrong, in one line, or the name of its type.

    It is the first paragraph, except where TensorFlow puts a heading and the places in the code before it.
    """
    headings = ("in user code:", "Graph execution error:")
    places = ("File ", "Detected at ", "<stack ", "[[", "The op is created at:")
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if text.startswith(headings):
        said = [line for line in lines if not line.startswith((*headings, *places))]
        return (said or lines)[-1][:MAX_REASON]
    return (" ".join(text.split("\n\n")[0].split()) or type(error).__name__)[:MAX_REASON]


def printable(text: str, keep: str = "") -> str:
    """Return text whose characters can all be seen: the others become escapes, such as \\x1b or \\u202e.

    The others are control and format characters, also bidirectional and zero-width ones; unusual spaces; halves of
    surrogate pairs, as in a name that is not UTF-8; and code points without a character. Letters of every script stay.
    All text for a terminal, a log, CSV, HTML or a plot goes through this function on its way out.

    Args:
        keep: control characters to leave as they are, such as line feeds in text of several lines.
    """
    if text.translate(dict.fromkeys(map(ord, keep))).isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def short_name(text: str) -> str:
    """Return a printable name for a picture, without its middle if it is long: names differ mostly at their ends."""
    shown = printable(text)
    half = MAX_SHORT_NAME // 2
    return shown if len(shown) <= MAX_SHORT_NAME else f"{shown[:half]}…{shown[len(shown) - half + 1 :]}"
