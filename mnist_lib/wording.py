"""How counts, shares and durations are written for people, the same in every command and report."""


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
    """Return the first line of an error's message that says something, or the name of its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)[:300]
