"""Heads as text: what a list of heads means, and how a head is called in a table."""

import pytest

from featurestore.errors import InvalidInput
from featurestore.training.head_specs import _split, head_label, parse_heads, settings_key
from featurestore.training.settings import DenseSettings, LogisticSettings


def test_names_and_settings():
    assert parse_heads("dense, logistic:c=7:max_iter=10") == (
        DenseSettings(),
        LogisticSettings(c=7.0, max_iter=10),
    )


def test_values_are_json():
    (dense,) = parse_heads("dense:learning_rate=1e-3:scaled=false:units=8")
    assert dense == DenseSettings(learning_rate=1e-3, scaled=False, units=8)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "a name is missing"),
        ("dense,,logistic", "a name is missing"),
        ("dense:units", "'units' without a value"),
        ("dense:units=3:units=4", "a second time"),
        ("logistic,dens", "did you mean dense"),
        ("dense:wings=2", "dense:wings=2.*no setting wings"),
        ("dense:units=0", "dense:units=0.*at least 1"),
        ("dense:units=2.5", "units: expected a whole number, found 2.5"),
        ("dense:units=true", "units: expected a whole number, found true"),
        ("dense:scaled=maybe", "scaled: expected true or false, found maybe"),
        ("logistic:c=much", "c: expected a number, found much"),
        ("logistic:c=null", "c: expected a number, found null"),
        ("logistic,dense,logistic", "logistic is named twice"),
        ("logistic,logistic:c=100", "logistic is named twice"),
    ],
)
def test_what_is_wrong_is_named(text, named):
    with pytest.raises(InvalidInput, match=named):
        parse_heads(text)


@pytest.mark.parametrize(
    "text", ["dense", "logistic:c=7", "dense:units=8:learning_rate=0.001:scaled=false"]
)
def test_a_label_is_the_spec_of_its_head(text):
    (settings,) = parse_heads(text)
    assert parse_heads(head_label(settings)) == (settings,)


def test_a_whole_number_is_the_float_that_it_equals():
    (settings,) = parse_heads("logistic:c=7")
    assert isinstance(settings.c, float)
    assert head_label(settings) == "logistic:c=7"
    as_integer = LogisticSettings(c=7)
    assert (
        settings_key(settings) == settings_key(as_integer) == settings_key(LogisticSettings(c=7.0))
    )
    assert settings_key(settings) != settings_key(LogisticSettings(c=7.5))


def test_a_label_leaves_defaults_out():
    (settings,) = parse_heads("dense:units=256:epochs=3")
    assert head_label(settings) == "dense:epochs=3"


def test_a_scikit_learn_class_is_given_its_parameters():
    text = 'sklearn.tree.DecisionTreeClassifier:max_depth=3:class_weight={"0":1,"1":2}'
    (tree,) = parse_heads(text)
    assert tree.head == "sklearn.tree.DecisionTreeClassifier"
    parameters = {"max_depth": 3, "class_weight": {"0": 1, "1": 2}}
    assert tree.to_dict()["parameters"] == parameters
    assert head_label(tree) == 'DecisionTreeClassifier:max_depth=3:class_weight={"0":1,"1":2}'
    (other,) = parse_heads("sklearn.tree.DecisionTreeClassifier:max_features=1")
    (share,) = parse_heads("sklearn.tree.DecisionTreeClassifier:max_features=1.0")
    assert settings_key(other) != settings_key(share)  # one feature, and all of them
    assert head_label(other) != head_label(share)


def test_separators_within_json_part_nothing():
    text = 'a:x=[1,2]:y={"b":3,"c":"},:\\""},d'
    heads = _split(text, ",")
    assert heads == ['a:x=[1,2]:y={"b":3,"c":"},:\\""}', "d"]
    assert _split(heads[0], ":") == ["a", "x=[1,2]", 'y={"b":3,"c":"},:\\""}']
