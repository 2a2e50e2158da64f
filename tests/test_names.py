"""Names as text: what is stored, and what a terminal is shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.names import as_unicode, is_unicode, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("Hündin 犬 🐕 كلب", "Hündin 犬 🐕 كلب"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[31mred\x1b[0m \x9b2J \x7f", "\\x1b[31mred\\x1b[0m \\x9b2J \\x7f"),
        ("cat\u202egpj.exe \u2066\u2069", "cat\\u202egpj.exe \\u2066\\u2069"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("byte \udcff, half \ud83d", "byte \\xff, half \\ud83d"),
    ],
)
def test_printable_shows_what_a_terminal_would_obey(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=[])))
def test_printable_is_one_line_of_text_whatever_comes(text):
    shown = printable(text)
    assert is_unicode(shown) and printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in shown)


def test_as_unicode_keeps_all_but_bytes_that_are_no_text():
    assert as_unicode("a\n\x1b 犬 \udcff") == "a\n\x1b 犬 \\xff"
