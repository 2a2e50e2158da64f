"""Which layers a name unfreezes, where the network is cut before them, and that nothing is lost."""

import keras
import numpy as np
import pytest

from featurestore.backbones.architecture import (
    build_model,
    cut_at,
    in_fresh_session,
    tail_from,
    weighted_layers,
)
from featurestore.backbones.cuts import last_frozen_layer, unfrozen_layers
from featurestore.backbones.table import BACKBONES, get_spec
from featurestore.errors import InvalidInput


@pytest.fixture(scope="module")
def vgg16():
    return build_model(get_spec("vgg16"), size=(32, 32), top=False)


@pytest.fixture(scope="module")
def convnext():
    return build_model(get_spec("convnext_tiny"), size=(32, 32), top=False)


def branching():
    """Return a network of two cells of which the second sees the first's input too.

    stem -> a -> join(a, stem) -> b -> last(b, join's input a) -> end
    """

    def build():
        image = keras.Input((8, 8, 3), name="image")

        def conv(name, before):
            return keras.layers.Conv2D(4, 1, name=name)(before)

        stem = conv("stem", image)
        a = conv("a", stem)
        join = keras.layers.Add(name="join")([a, stem])
        b = conv("b", join)
        last = keras.layers.Concatenate(name="last")([b, join, a])
        return keras.Model(image, conv("end", last), name="branching")

    return in_fresh_session(build)


def difference(model, cut):
    """Return how far cut and tail together are from the whole network, relative to its values."""
    images = np.random.default_rng(0).normal(size=(2, *model.input.shape[1:])).astype(np.float32)
    whole = np.asarray(model(images, training=False))
    halves = tail_from(model, cut)(cut_at(model, cut)(images, training=False), training=False)
    scale = np.abs(whole).max()
    assert scale > 0
    return np.abs(np.asarray(halves) - whole).max() / scale


@pytest.mark.parametrize(
    ("names", "layers", "cut"),
    [
        (["block5"], ["block5_conv1", "block5_conv2", "block5_conv3"], "block4_pool"),
        (["block5_conv3"], ["block5_conv3"], "block5_conv2"),
        (["block5_conv[13]"], ["block5_conv1", "block5_conv3"], "block4_pool"),
        (["block5_conv2", "block4_conv3"], ["block4_conv3", "block5_conv2"], "block4_conv2"),
        (["*"], 13, "input_layer"),
    ],
)
def test_names_of_vgg16(vgg16, names, layers, cut):
    found = unfrozen_layers(vgg16, names)
    assert len(found) == layers if isinstance(layers, int) else list(found) == layers
    assert last_frozen_layer(vgg16, found) == cut


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blok5", "closest: block5"),
        ("block", "none of that name"),  # the start up to an underscore, not any start
        ("predictions", "up to block5_pool"),
        ("block5_pool", "no weights"),
    ],
)
def test_names_that_mean_nothing_are_refused(vgg16, name, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        unfrozen_layers(vgg16, ["block5", name])
    assert caught.value.next_step
    with pytest.raises(InvalidInput, match="is named"):
        unfrozen_layers(vgg16, [])


@pytest.mark.parametrize(
    ("unfrozen", "cut"),
    [("end", "last"), ("b", "stem"), ("a", "stem"), ("stem", "image")],
)
def test_no_path_leads_past_a_cut(unfrozen, cut):
    # Not join before b: the output sees a beside it.
    model = branching()
    assert last_frozen_layer(model, [unfrozen]) == cut
    assert difference(model, cut) == 0


def test_a_whole_name_wins_over_the_start_of_others():
    def build():
        image = keras.Input((4, 4, 1), name="image")
        x = image
        for name in ("conv", "conv_1", "conv_2", "other_1"):
            x = keras.layers.Conv2D(1, 1, name=name)(x)
        return keras.Model(image, x, name="started")

    model = in_fresh_session(build)
    assert unfrozen_layers(model, ["conv"]) == ("conv",)
    assert unfrozen_layers(model, ["conv", "conv_*"]) == ("conv", "conv_1", "conv_2")
    assert unfrozen_layers(model, ["other"]) == ("other_1",)


def test_layers_within_nested_models(convnext):
    nested = "convnext_tiny_downsampling_block_2"
    inside = unfrozen_layers(convnext, [nested])
    assert len(inside) == 2 and nested not in inside
    assert unfrozen_layers(convnext, [inside[1]]) == inside[1:]
    # The last sum before it: an operation that is no layer.
    assert last_frozen_layer(convnext, inside) == "add_14"
    after = unfrozen_layers(convnext, ["*stage_3*"])
    assert last_frozen_layer(convnext, after) == nested
    assert difference(convnext, nested) < 1e-5
    assert difference(convnext, "add_14") < 1e-5


def test_normalization_of_the_input_is_never_trained():
    model = build_model(get_spec("efficientnet_b0"), size=(32, 32), top=False)
    assert "normalization" not in unfrozen_layers(model, ["*"])
    assert "top_bn" in unfrozen_layers(model, ["top"])
    with pytest.raises(InvalidInput, match="no weights"):
        unfrozen_layers(model, ["normalization"])


# The smallest of each family: the others repeat its blocks, and building all takes minutes.
FAMILIES = {get_spec(name).module: name for name in reversed(BACKBONES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES.values())
def test_cut_and_tail_are_the_whole_network(name):
    spec = get_spec(name)
    model = build_model(spec, size=(spec.minimum_size, spec.minimum_size), top=False)
    layers = [layer.name for layer in weighted_layers(model)]
    cuts = {
        last_frozen_layer(model, unfrozen_layers(model, [layer]))
        for layer in (layers[-1], layers[-len(layers) // 5], layers[len(layers) // 2])
    }
    for cut in cuts:
        assert difference(model, cut) <= 1e-5, cut
