"""A recipe's fingerprint moves with every field that decides a value, and with nothing else."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from featurestore.augmentation import Augmentation
from featurestore.digests import canonical_json, fingerprint
from featurestore.errors import Conflict, InvalidInput
from featurestore.recipe import Recipe, Views

RECIPE = Recipe(
    backbone="vgg16",
    weights_sha256="ab" * 32,
    layer="block5_pool",
    size=(150, 150),
    decoder="pillow-upright-rgb-1",
    preprocessing="caffe",
    precision="bfloat16",
)
VIEWS = Views(augmentation=Augmentation(), seed=3, count=6)
OTHERS = {
    "augmentation": VIEWS,
    "backbone": "vgg19",
    "weights_sha256": "cd" * 32,
    "layer": "block4_pool",
    "pooling": "avg",
    "size": (150, 151),
    "decoder": "pillow-upright-rgb-2",
    "interpolation": "nearest",
    "preprocessing": "tf",
    "precision": "float32",
    "dtype": "float32",
}


@pytest.mark.parametrize("field", sorted(OTHERS))
def test_every_field_moves_the_fingerprint(field):
    other = dataclasses.replace(RECIPE, **{field: OTHERS[field]})
    assert other.fingerprint != RECIPE.fingerprint
    assert [line.partition(":")[0] for line in RECIPE.differences(other)] == [field]


def test_every_field_is_among_those_that_move_it():
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert fields == set(OTHERS)


def test_fingerprint_is_the_published_one():
    # A change here is a change of format: bump RECIPE_VERSION and write it in CHANGELOG.md.
    assert RECIPE.fingerprint == (
        "ec6af0f97a8f539666d09a9dd01c43b306fc250bfb4b130f9ac0d35311deff9d"
    )


def test_fingerprint_is_the_same_in_every_process():
    code = (
        "from featurestore.recipe import Recipe;"
        f"print(Recipe.from_dict({RECIPE.to_dict()!r}).fingerprint)"
    )
    for seed in ("0", "1", "4242"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == RECIPE.fingerprint


def test_fields_in_any_order_are_the_same_recipe():
    reversed_fields = dict(reversed(RECIPE.to_dict().items()))
    assert Recipe.from_dict(reversed_fields) == RECIPE


def test_newer_version_is_refused_with_the_way_on():
    with pytest.raises(Conflict, match="upgrade featurestore"):
        Recipe.from_dict(RECIPE.to_dict() | {"version": 3})


def test_unknown_field_is_refused():
    with pytest.raises(Conflict, match="colour"):
        Recipe.from_dict(RECIPE.to_dict() | {"colour": "red"})


def test_bad_value_names_the_choices():
    with pytest.raises(InvalidInput, match="pooling: expected one of none, avg, max"):
        dataclasses.replace(RECIPE, pooling="sum")


def test_names_of_different_recipes_differ():
    names = {RECIPE.name} | {
        dataclasses.replace(RECIPE, **{field: value}).name
        for field, value in OTHERS.items()
        if field not in ("decoder", "preprocessing")  # decided by the version and the backbone
    }
    assert len(names) == len(OTHERS) - 1


def test_canonical_json_refuses_what_has_no_stable_text():
    assert (
        canonical_json({"b": 1, "a": ["ü", None, True]}) == '{"a":["ü",null,true],"b":1}'.encode()
    )
    for unstable in (0.5, {1: 2}, {"a": {3}}, b"bytes"):
        with pytest.raises(TypeError, match="canonical JSON"):
            fingerprint(unstable)


def test_recipe_with_views_is_read_back():
    recipe = dataclasses.replace(RECIPE, augmentation=VIEWS)
    assert Recipe.from_dict(json.loads(canonical_json(recipe.to_dict()))) == recipe
    assert recipe.to_dict()["version"] == 2
    assert recipe.clean == RECIPE


def test_name_tells_ranges_and_seed_of_views_and_not_how_many():
    def name(**changes):
        views = dataclasses.replace(VIEWS, **changes)
        return dataclasses.replace(RECIPE, augmentation=views).name

    assert name(count=12) == name()
    assert len({name(), name(seed=4), name(augmentation=Augmentation(zoom=0.1)), RECIPE.name}) == 4


def test_a_view_is_known_by_image_number_ranges_and_seed_and_not_by_how_many_there_are():
    images = np.arange(64, dtype=np.uint8).reshape(2, 32)

    def keys(view=0, **changes):
        return dataclasses.replace(VIEWS, **changes).digests(images, view).tobytes()

    assert keys(count=12) == keys()
    others = [keys(), keys(view=1), keys(seed=4), keys(augmentation=Augmentation(zoom=0.1))]
    assert len(set(others)) == 4
    assert keys()[:32] != keys()[32:]
    assert VIEWS.digests(images[1:], 0).tobytes() == keys()[32:]
    assert VIEWS.digests(images[:0], 0).shape == (0, 32)


def test_views_are_shared_as_far_as_both_recipes_have_them():
    def recipe(**changes):
        return dataclasses.replace(RECIPE, augmentation=dataclasses.replace(VIEWS, **changes))

    assert recipe().views_as(recipe(count=2)) == recipe(count=2).views_as(recipe()) == 2
    assert recipe().views_as(recipe(seed=4)) == 0
    assert recipe().views_as(RECIPE) == RECIPE.views_as(recipe()) == 0
    assert recipe().views_as(dataclasses.replace(recipe(), layer="block4_pool")) == 0
