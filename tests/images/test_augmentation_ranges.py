"""Ranges of versions as values, as fields of a recipe and as texts of the command line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.augmentation import Augmentation, parse_augmentation
from featurestore.digests import canonical_json, fingerprint
from featurestore.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation", 181),
        ("rotation", -1),
        ("shift", 1.01),
        ("shear", 90),
        ("zoom", 1),
        ("zoom", math.nan),
        ("zoom", math.inf),
        ("zoom", "0.2"),
        ("zoom", None),
        ("zoom", True),
        ("zoom", 0.1234567),
        ("flip", 1),
        ("flip", "true"),
        ("fill", 256),
        ("fill", -1),
        ("fill", 1.0),
        ("fill", True),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InvalidInput, match=rf"augmentation, {name}: expected .*, found"):
        Augmentation(**{name: value})


def test_equal_ranges_have_one_spelling():
    assert Augmentation(rotation=-0.0).to_dict() == Augmentation(rotation=0).to_dict()
    assert Augmentation(rotation=40) == Augmentation(rotation=40.0) == Augmentation()


ranges_of_any_kind = st.builds(
    Augmentation,
    rotation=st.integers(0, 180_000).map(lambda number: number / 1000),
    shift=st.integers(0, 100_000).map(lambda number: number / 100_000),
    shear=st.integers(0, 89_000).map(lambda number: number / 1000),
    zoom=st.integers(0, 99).map(lambda number: number / 100) | st.just(1e-7),
    flip=st.booleans(),
    fill=st.integers(0, 255),
)


@given(ranges_of_any_kind)
def test_fields_survive_canonical_json(ranges):
    fields = json.loads(canonical_json(ranges.to_dict()))
    assert Augmentation.from_dict(fields) == ranges


@given(ranges_of_any_kind, ranges_of_any_kind)
def test_fingerprints_differ_as_the_ranges_do(first, second):
    same = fingerprint(first.to_dict()) == fingerprint(second.to_dict())
    assert same == (first == second)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "affine-bilinear-2"},
        {"rotation": "forty"},
        {"rotation": "40.0"},
        {"rotation": "4_0"},
        {"rotation": 40},
        {"rotation": "200"},
        {"flip": "true"},
        {"fill": "0"},
        {"twist": "1"},
    ],
)
def test_other_fields_are_refused(change):
    with pytest.raises(InvalidInput, match="augmentation"):
        Augmentation.from_dict(Augmentation().to_dict() | change)


def test_missing_fields_are_refused():
    fields = Augmentation().to_dict()
    del fields["fill"]
    with pytest.raises(InvalidInput, match="augmentation"):
        Augmentation.from_dict(fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("default", Augmentation()),
        ("reference", Augmentation(shear=0.2)),
        ("rotation=20", Augmentation(rotation=20)),
        ("rotation=20, zoom=0.1,flip=false", Augmentation(rotation=20, zoom=0.1, flip=False)),
        ("fill=255", Augmentation(fill=255)),
        ("only:flip=true", Augmentation(rotation=0, shift=0, shear=0, zoom=0)),
        (
            "only:rotation=15,fill=9",
            Augmentation(rotation=15, shift=0, shear=0, zoom=0, flip=False, fill=9),
        ),
    ],
)
def test_texts(text, expected):
    assert parse_augmentation(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected none, default, reference, or rotation, shift"),
        ("only:", "expected none, default, reference, or rotation, shift"),
        ("strong", "'strong': expected none, default, reference"),
        ("twist=3", "'twist=3': expected none"),
        ("rotation", "'rotation': expected none"),
        ("rotation=", "rotation: expected a number, found ''"),
        ("rotation=x", "rotation: expected a number, found 'x'"),
        ("rotation=nan", "rotation: expected 0 to 180, found nan"),
        ("rotation=20,", "'': expected none"),
        ("rotation=20,rotation=30", "rotation: expected one value, found two"),
        ("zoom=1", "zoom: expected 0 to 0.99, found 1"),
        ("flip=yes", "flip: expected true or false, found 'yes'"),
        ("fill=1.5", "fill: expected a whole number, found '1.5'"),
        ("rule=affine-bilinear-1", "'rule=affine-bilinear-1': expected none"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(InvalidInput) as caught:
        parse_augmentation(text)
    assert message in str(caught.value)


def test_published_fingerprint():
    assert canonical_json(Augmentation().to_dict()) == (
        b'{"fill":0,"flip":true,"rotation":"40","rule":"affine-bilinear-1","shear":"10",'
        b'"shift":"0.2","zoom":"0.2"}'
    )
