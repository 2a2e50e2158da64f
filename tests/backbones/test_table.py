import dataclasses

import pytest

from featurestore.backbones.table import BACKBONES, get_spec
from featurestore.errors import InvalidInput

keras = pytest.importorskip("keras")

QUICK = ("vgg16", "mobilenet", "mobilenet_v3_small")


def keras_classifiers():
    applications = keras.applications
    return {
        name
        for name in dir(applications)
        if name[0].isupper() and callable(getattr(applications, name))
    }


def test_the_table_covers_every_classifier_of_keras():
    assert {spec.constructor for spec in BACKBONES.values()} == keras_classifiers()


def test_names_are_those_of_their_rows_and_unique():
    assert all(name == spec.name for name, spec in BACKBONES.items())
    assert len({spec.weights_file for spec in BACKBONES.values()}) == len(BACKBONES)
    assert {"vgg16", "vgg19", "xception", "inception_v3", "mobilenet", "resnet50"} <= set(BACKBONES)
    assert {"efficientnet_v2_s", "resnet152_v2", "nasnet_large", "convnext_tiny"} <= set(BACKBONES)


def test_modules_are_those_that_define_the_constructors():
    for spec in BACKBONES.values():
        assert hasattr(getattr(keras.applications, spec.module), "preprocess_input")
        defined = getattr(keras.applications, spec.constructor).__module__
        assert defined.rpartition(".")[2] == spec.module


def test_a_row_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_spec("vgg16").default_size = 1
    with pytest.raises(TypeError):
        BACKBONES["mine"] = get_spec("vgg16")


@pytest.mark.parametrize(("typed", "meant"), [("VGG-16", "vgg16"), ("resnet_50", "resnet50")])
def test_an_unknown_name_says_what_was_meant(typed, meant):
    with pytest.raises(InvalidInput, match=meant) as error:
        get_spec(typed)
    assert "mobilenet_v2" in error.value.next_step


def check_row(name, monkeypatch):
    """Compare a row with what its constructor does; nothing is downloaded."""
    from keras.src.utils import file_utils

    from featurestore.backbones.architecture import build_model, construct, in_fresh_session

    spec = get_spec(name)
    small = (spec.minimum_size, spec.minimum_size)
    model = build_model(spec, size=small, top=False)
    assert model.layers[-1].name == spec.default_layer
    assert len(model.output.shape) == 4
    with pytest.raises(ValueError, match=f"at least {spec.minimum_size}"):
        construct(spec, size=(spec.minimum_size - 1,) * 2, top=False, weights=None)

    asked = []

    class AskedError(Exception):
        pass

    def get_file(fname, *_, **__):
        asked.append(fname)
        raise AskedError

    monkeypatch.setattr(file_utils, "get_file", get_file)
    for top in (True, False):
        with pytest.raises(AskedError):
            in_fresh_session(
                lambda top=top: construct(
                    spec, size=(spec.default_size,) * 2, top=top, weights="imagenet"
                )
            )
    assert asked == [spec.weights_file, spec.weights_file_no_top]
    # Keras refuses a top at another size than the one its ImageNet weights were trained at.
    with pytest.raises(ValueError, match=f"{spec.default_size}, {spec.default_size}|^$"):
        raise_unless_default_size(spec)


def raise_unless_default_size(spec):
    from featurestore.backbones.architecture import construct

    if spec.module in ("mobilenet", "mobilenet_v2", "mobilenet_v3"):
        raise ValueError("")  # these take any size with their top
    construct(spec, size=(spec.default_size + 32,) * 2, top=True, weights="imagenet")


@pytest.mark.parametrize("name", QUICK)
def test_a_row_says_what_keras_does(name, monkeypatch):
    check_row(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(QUICK)))
def test_every_row_says_what_keras_does(name, monkeypatch):
    check_row(name, monkeypatch)


def test_a_size_below_the_minimum_is_refused_with_the_one_to_use():
    from featurestore.backbones.architecture import build_model

    with pytest.raises(InvalidInput, match="at least 71x71") as error:
        build_model(get_spec("xception"), size=(150, 70), top=False)
    assert error.value.next_step == "--size 299"
