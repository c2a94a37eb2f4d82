"""How counts, shares, durations, errors and names are written for people, the same in every command and report."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MAX_REASON = 300  # characters of an error's message
MAX_SHORT_NAME = 24  # characters of a name in a picture
REPORT_SECONDS = 0.2  # between two reports of progress


def rounded(value: float) -> str:
    """Return a number with at most two decimals: "1,000", "2.4"."""
    return f"{round(value, 2):,}".removesuffix(".0")


def counted(count: float, noun: str) -> str:
    """Return a count with its noun: "1 trial", "2 classes", "1,000 trials", "2.4 epochs"."""
    number = rounded(count)
    ending = "" if number == "1" else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def percent(share: float) -> str:
    """Return a share of 1 as a percentage with two decimals: 0.97134 is "97.13%"."""
    return f"{share:.2%}"


def interval_text(interval: tuple[float, float]) -> str:
    """Return an interval of shares: "96.98% to 97.51%"."""
    return " to ".join(map(percent, interval))


def and_balanced(share: float | None) -> str:
    """Return a balanced accuracy as it follows an accuracy, ", balanced 61.20%", or "" if there is none."""
    return "" if share is None else f", balanced {percent(share)}"


def duration(seconds: float) -> str:
    """Return seconds as "45 s", "3:05" or "2:03:05"."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, seconds = divmod(rounded, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def bytes_text(count: float) -> str:
    """Return a number of bytes as "40.2 GB" or "3.9 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


class Progress(str):
    """How far some work is, as text, with the share that is done."""

    share: float  # from 0 to 1

    @classmethod
    def of(cls, what: str, done: int, total: int, seconds: float) -> "Progress":
        """Return "120 of 1,000 WHAT, 0:44 left". `seconds`: so far; the rest is expected to be as fast."""
        left = f", {duration(seconds / done * (total - done))} left" if done else ""
        return cls.read(f"{done / max(total, 1)} {done:,} of {total:,} {what}{left}")

    @classmethod
    def read(cls, line: str) -> "Progress":
        """Return what `line` has returned. Raises ValueError if it is something else."""
        share, _, text = line.partition(" ")
        progress = cls(text)
        progress.share = float(share)
        return progress

    def line(self) -> str:
        return f"{self.share} {self}"


def reported(
    results: Iterable[T], total: int, what: str, progress: Callable[[str], object], step: int = 1
) -> Iterator[T]:
    """Yield results, and report now and then how many there are, as "120 of 1,000 WHAT, 0:44 left".

    Args:
        step: how many each result counts as.
    """
    begin = last = time.monotonic()
    for number, result in enumerate(results):
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            progress(Progress.of(what, number * step, total, now - begin))
            last = now
        yield result


# A URL that was given in place of a path has one slash.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}")
# Where credentials begin in a word with a later "@": user:password at its start, user or user:password after "://".
_CREDENTIALS = re.compile(r":/{1,2}(?=[^/@:]*:|[^/?#@]*@)|^(?=[^/@:]*:(?!/))")


def without_secrets(text: str) -> str:
    """Replace the credentials and the query of each URL, and the credentials in user:password@host, with ***.

    A password that is not encoded can contain any of ":/?#@". So everything up to the last "@" of a word is replaced.
    """
    return re.sub(r"\S+", lambda word: _word_without_secrets(word[0]), text) if "@" in text or ":/" in text else text


def _word_without_secrets(word: str) -> str:
    at = word.rfind("@")
    if begin := _CREDENTIALS.search(word, 0, at + 1):
        word = f"{word[: begin.end()]}***{word[at:]}"
    if scheme := _SCHEME.search(word):
        address, query, value = word[scheme.end() :].partition("?")
        return f"{word[: scheme.end()]}{address}{query}{value and '***'}"
    return word


def one_line(error: BaseException) -> str:
    """Return what an error's message says is wrong, in one line, or the name of its type.

    This is the first paragraph of the message that does not announce another one, as Keras does when it names a layer.
    If the message begins with a heading of TensorFlow, it is the last line that is neither a heading nor a place in the
    code. Secrets in URLs are replaced.
    """
    headings = ("in user code:", "Graph execution error:")
    places = ("File ", "Detected at ", "<stack ", "[[", "The op is created at:")
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # Keras prints some messages in bold
    text = without_secrets(re.sub(r"^\s*Exception encountered when calling .*", "", text)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if text.startswith(headings):
        said = [line for line in lines if not line.startswith((*headings, *places))]
        return (said or lines)[-1][:MAX_REASON]
    paragraphs = text.split("\n\n")
    first = next((part for part in paragraphs if not part.rstrip().endswith(":")), paragraphs[0])
    return (" ".join(first.split()) or type(error).__name__)[:MAX_REASON]


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
