"""Text that would act on a terminal, hide, or break a line, if it were printed as it is."""

from hypothesis import strategies as st

# They set the title, clear the screen, hide text, move the cursor, reverse the direction, end a line, or are invisible.
CONTROLS = (
    *("\x1b]0;x\x07", "\x1b[2J", "\x1b[8m", "\r", "\b", "\0", "\x9b1m", "\x7f", "\u202e", "\u2066", "\u2028", "\u200b"),
    *("\u2060", "\ufeff", "\udc80", "\ud800"),
)
HOSTILE = f"b{''.join(CONTROLS)}\n[red]e"
FORMULAS = ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "'=1", '"=1', "-1+cmd|' /C calc'!A0", "\uff1d1", "$\\frac{$")

ANY_TEXT = st.lists(st.sampled_from([*CONTROLS, *FORMULAS]) | st.text(st.characters()), max_size=4).map("".join)


def is_harmless(text: str) -> bool:
    """Return whether a text of several lines has no characters but those that can be seen."""
    return text.replace("\n", "").isprintable()
