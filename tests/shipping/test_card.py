"""The page beside a model: whatever classes, notes and files are called, it says what it says."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.names import printable
from featurestore.shipping.card import Shipment, card, description
from featurestore.shipping.markdown import code, escaped
from featurestore.testing.heads import RECIPE
from featurestore.training.runs import Run, TrainedOn
from featurestore.training.settings import LogisticSettings

markdown_it = pytest.importorskip("markdown_it")

HOSTILE = (
    "<script>alert(1)</script>",
    "</code><img src=x onerror=alert(1)>",
    "[a](https://example.org) ![b](https://example.org/b.png)",
    "https://example.org www.example.org a@example.org",
    "*a* _b_ ~~c~~ | d | $e$ &lt; #1 @f",
    "``` ` `` x`",
    "a\n# heading\n\n```\n- list\r> quote",
    "ends in a backslash \\",
    "\x1b[31mred\u202etxt.exe",
    " # ",
)


def shipment(*, name="model.keras", class_names=("cats", "dogs"), notes=()):
    run = Run(
        id="logistic-photos-20250304T120506-ab12",
        path=Path("runs"),
        created="2025-03-04T12:05:06+00:00",
        head="logistic",
        settings=LogisticSettings(),
        seed=0,
        shuffled_labels=False,
        features=TrainedOn(
            name="photos/vgg16-150",
            fingerprint="f" * 64,
            manifest_fingerprint="e" * 64,
            recipe_fingerprint=RECIPE.fingerprint,
            recipe=RECIPE.to_dict(),
            class_names=tuple(class_names),
            feature_shape=(4,),
            rows={"train": 5},
            comparable="f" * 64,
        ),
        metrics={},
        history={},
        chosen={},
        notes=tuple(notes),
        versions={},
        seconds={},
        files={},
    )
    return Shipment(name=name, format="keras", run=run, files={}, weights="w", check=None)


def parsed(text):
    """Return every token with those within lines, as a reader that takes HTML and links has it."""
    reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in reader.parse(text):
        found += [token, *(token.children or ())]
    return found


def kinds(tokens):
    return [(token.type, token.tag) for token in tokens if token.type != "text"]


def lines_told(tokens):
    """Return the text of each block, its code spans and words together."""
    return [
        "".join(child.content for child in token.children)
        for token in tokens
        if token.type == "inline"
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_and_notes_are_shown_and_not_read(hostile):
    plain = shipment(notes=["a note"])
    turned = shipment(class_names=("cats", hostile), notes=[hostile])
    turned = dataclasses.replace(turned, name=f"{hostile}.keras")
    found = parsed(card(turned).decode())
    assert kinds(found) == kinds(parsed(card(plain).decode()))
    told = lines_told(found)
    assert f"Note: {printable(hostile)}." in told
    assert any(f"Columns: cats, {printable(hostile)}." in line for line in told)
    assert told[0] == f"{printable(hostile)}.keras".strip()
    assert not set("\x1b\r\u202e") & set(card(turned).decode())


def test_the_description_holds_names_as_they_are():
    told = json.loads(description(shipment(class_names=HOSTILE, notes=HOSTILE)))
    assert told["output"]["class_names"] == list(HOSTILE)
    assert told["made_of"]["notes"] == list(HOSTILE)


@settings(max_examples=500)
@given(st.text("`` \\<a*_[]()&;:/.!#~|$\n", min_size=1, max_size=12))
@example(" ")
def test_any_text_comes_back(text):
    (paragraph,) = lines_told(parsed(f"x {escaped(text)} x"))
    assert paragraph == f"x {printable(text)} x"
    (paragraph,) = lines_told(parsed(f"x {code(text)} x"))
    assert paragraph == f"x {printable(text)} x"


def test_addresses_are_no_links_where_a_reader_makes_links_of_them():
    text = "https://example.org www.example.org WWW.example.org"
    assert escaped(text) == r"https\://example.org www\.example.org WWW\.example.org"
