"""What the command says at its end."""

from jobs.review.labels import Tally
from mnist_lib.wording import counted


def tally_text(tally: Tally, where: str) -> str:
    """Return how many pictures were reviewed, as a sentence. `where`: the file of the labels."""
    parts = [
        f"{count:,} {what}"
        for count, what in (
            (tally.corrected, "corrected"),
            (tally.removed, "removed"),
            (tally.added, "added to the dataset"),
        )
        if count
    ]
    confirmed = f": {', '.join(parts)}" if parts else ""
    stored = f" Labels: {where}" if tally.reviewed else ""
    return f"Reviewed {counted(tally.reviewed, 'picture')}{confirmed}.{stored}"
