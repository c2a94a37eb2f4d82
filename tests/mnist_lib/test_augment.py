"""The setting `augment` is a preset or a list of changes, and a wrong one is named with what is known."""

import pytest

from mnist_lib.augment import AUTO, EARLIER, PRESETS, Changes, parse_augment
from mnist_lib.errors import SpecError
from mnist_lib.spec import TrialSpec, is_unused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Changes()),
        ("photos", PRESETS["photos"]),
        ("shift=0.1, rotate=10,flip=horizontal", Changes(shift=0.1, rotate=10.0, flip="horizontal")),
        ("photos,erase=0,flip=both", Changes(shift=0.1, zoom=0.2, brightness=0.2, contrast=0.2, flip="both")),
        ("erase=0.5,none", Changes()),
        ("photos,digits", PRESETS["digits"]),
        ("digits+flip=both", Changes(**{**vars(PRESETS["digits"]), "flip": "both"})),
        (AUTO, None),
        (EARLIER, None),
    ],
)
def test_a_later_part_replaces_what_an_earlier_one_says(text: str, expected: Changes | None) -> None:
    assert parse_augment(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("photo", r"expected auto, none, digits, photos, or a list such as .*, got 'photo'; names: bend, brightness"),
        ("", "expected auto, none, digits, photos, or a list"),
        ("auto,flip=both", "expected auto, none, digits, photos, or a list such as .*, got 'auto'"),
        ("turn=3", "got 'turn=3'"),
        ("photos=1", "got 'photos=1'"),
        ("shift=0.6", "shift: expected a number from 0 to 0.5, got 0.6"),
        ("shift=nan", "shift: expected a number from 0 to 0.5, got nan"),
        ("rotate=much", "rotate: expected a number, got 'much'"),
        ("flip=left", "'left' is not known; known: none, horizontal, vertical, both"),
    ],
)
def test_a_wrong_part_is_named(text: str, error: str) -> None:
    with pytest.raises(SpecError, match=f"augment: .*{error}"):
        TrialSpec.of("keras-cnn", augment=text)


def test_a_spec_has_the_setting_and_a_document_of_an_earlier_release_stands_for_what_it_did() -> None:
    assert TrialSpec.of("keras-cnn").augment == AUTO
    fields = {name: value for name, value in vars(TrialSpec.of("keras-cnn")).items() if name != "augment"}
    assert TrialSpec(**fields).augment == EARLIER
    assert is_unused("augment", EARLIER)
    assert not is_unused("augment", "photos")
    assert TrialSpec.of("keras-cnn", augment="photos").compile_group != TrialSpec.of("keras-cnn").compile_group
