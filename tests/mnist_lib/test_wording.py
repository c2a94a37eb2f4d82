"""Counts, shares, durations and errors as text, and text without secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.wording import (
    MAX_REASON,
    MAX_SHORT_NAME,
    counted,
    duration,
    one_line,
    percent,
    printable,
    short_name,
    without_secrets,
)
from tests.support.hostile import ANY_TEXT


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1000, "1,000 trials")),
        *(
            (1.0, "1 trial"),
            (1 / 3, "0.33 trials"),
            (1234.5, "1,234.5 trials"),
            (0.999, "1 trial"),
            (20.0, "20 trials"),
        ),
    ],
)
def test_a_count_of_one_is_singular_and_every_other_plural(count: float, text: str) -> None:
    assert counted(count, "trial") == text


def test_a_share_is_a_percentage_with_two_decimals() -> None:
    assert percent(0.97134) == "97.13%"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (59.6, "1:00"), (185, "3:05"), (3599.4, "59:59"), (7385, "2:03:05")]
)
def test_a_duration_of_a_minute_or_more_is_written_with_colons(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "ValueError"),
        ("one\ntwo\n\nthree", "one two"),
        ('in user code:\n\n    File "a.py", line 2, in f\n        g()\n\n    KeyError: 3\n', "KeyError: 3"),
        (
            "Graph execution error:\n\nDetected at node X defined at (most recent call last):\n<stack traces ...>"
            "\nassertion failed: [0]\n\t [[{{node X}}]] [Op:__inference_f_1]",
            "assertion failed: [0]",
        ),
    ],
)
def test_an_error_is_written_as_one_line_without_headings_and_places(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line


def test_letters_of_every_script_stay_and_what_cannot_be_seen_is_escaped() -> None:
    letters = "Ünïcödé été ﬁ ΩЖ漢字かな 한글 ภาษา हिन्दी עברית عربي 👍🏽 +=@-"
    assert printable(letters) == letters
    assert printable("a\x1b[2J\u202eb\u200bc\x9bd\x7fe\udc80f\u2028g\th\ni") == (
        r"a\x1b[2J\u202eb\u200bc\x9bd\x7fe\udc80f\u2028g\th\ni"
    )
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_a_short_name_keeps_the_beginning_and_the_end_of_a_long_one() -> None:
    assert short_name("a" * MAX_SHORT_NAME) == "a" * MAX_SHORT_NAME
    short = short_name("first" + "x" * 1000 + "last")
    assert len(short) == MAX_SHORT_NAME
    assert short.startswith("first")
    assert short.endswith("last")


@pytest.mark.fuzz
@given(text=ANY_TEXT)
def test_any_text_becomes_printable_and_stays_so(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert printable(text, keep="\n") == "\n".join(map(printable, text.split("\n")))
    shown.encode()
    short_name(text).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET http://user:canary@host:1/a?list=2 in 6 ms", "GET http://***@host:1/a?*** in 6 ms"),
        ("https://canary@host/x, again", "https://***@host/x, again"),
        ("got 'user:canary@proxy:3128'", "got ***@proxy:3128'"),
        ("http://user:can/ary?#:@x@host/", "http://***@host/"),
        ("http://host/a,http://user:canary@host/b", "http://host/a,http://***@host/b"),
        ("az://box/a?sig=canary;\nnext line", "az://box/a?***\nnext line"),
        ("s3://bucket/models/keras@3: not there", "s3://bucket/models/keras@3: not there"),
        ("keras@3, http://host:8265 and git@host:a/b", "keras@3, http://host:8265 and git@host:a/b"),
        ("is that so?", "is that so?"),
    ],
)
def test_credentials_and_queries_of_urls_are_replaced_and_nothing_else(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


def test_a_reason_is_cut_only_after_its_secrets_are_replaced() -> None:
    assert "canary" not in one_line(ValueError(f"http://user:{'canary' * MAX_REASON}@host"))


def test_the_reason_in_a_message_of_keras_is_not_the_name_of_the_layer_that_was_called() -> None:
    heading, arguments = "Exception encountered when calling Dense.call().\n\n", "\n\nArguments received:\n  • inputs=3"
    assert (
        one_line(ValueError(f"{heading}\x1b[1mInput 0 is\nincompatible.\x1b[0m{arguments}"))
        == "Input 0 is incompatible."
    )
    announced = f"{heading}\x1b[1mCould not infer the shape. Error encountered:\n\nrank 2 expected\x1b[0m{arguments}"
    assert one_line(ValueError(announced)) == "rank 2 expected"
    assert one_line(ValueError("only this:")) == "only this:"


PASSWORDS = st.text(st.characters(exclude_categories=["Z", "C"]), max_size=20).map("canary{}yranac".format)


@pytest.mark.fuzz
@given(st.text(), PASSWORDS, st.text(), st.booleans())
def test_no_password_in_a_url_is_printed(before: str, password: str, after: str, has_scheme: bool) -> None:
    address = f"{'https://' if has_scheme else ''}user:{password}@host"
    # A URL that is given in place of a path loses a slash.
    for secret in (
        address,
        address.replace("//", "/"),
        f"https://host/?key={password}",
        f"https:/host/?key={password}",
    ):
        shown = without_secrets(f"{before} {secret}{after}")
        assert "canary" not in shown
        assert "yranac" not in shown
