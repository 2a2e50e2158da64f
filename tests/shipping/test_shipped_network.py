"""One network from pixels to probabilities: every preprocessing, pooling, type and head."""

import json
import zipfile

import keras
import numpy as np
import pytest
from shipped import IMAGES, SIZE, Model, backbone, features, fitted, many, recipe
from sklearn.linear_model import SGDClassifier

from featurestore.backbones.preprocessing import preprocess
from featurestore.errors import InvalidInput
from featurestore.shipping.head_layers import head_layers
from featurestore.shipping.network import assemble


@pytest.fixture(scope="module")
def tiny():
    return backbone()


def built(tiny, kind, wanted, *, n_classes=2):
    head = fitted(kind, features(tiny, many(40), wanted), n_classes=n_classes)
    model = assemble(tiny, head_layers(head, name=kind), recipe=wanted)
    return model, head.predict_proba(features(tiny, IMAGES, wanted))


def assert_equal_to(model, expected, atol=1e-6):
    found = np.asarray(model(IMAGES, training=False))
    assert expected.std(axis=0).min() > 1e-3  # the images differ, so a constant would not do
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "none"])
def test_every_preprocessing_is_inside(tiny, mode):
    assert_equal_to(*built(tiny, "logistic", recipe(preprocessing=mode, dtype="float32")))


def test_colours_change_places_exactly(tiny):
    model, _ = built(tiny, "logistic", recipe(preprocessing="caffe"))
    inside = keras.Model(model.input, model.get_layer("preprocessing").output)(IMAGES)
    expected = preprocess(IMAGES.astype(np.float32), mode="caffe")
    np.testing.assert_array_equal(np.asarray(inside), np.asarray(expected))


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_every_pooling_is_inside(tiny, pooling):
    assert_equal_to(*built(tiny, "logistic", recipe(pooling=pooling, dtype="float32")))


def test_features_are_rounded_as_they_were_stored(tiny):
    model, expected = built(tiny, "dense", recipe(dtype="float16"))
    unrounded = assemble(
        tiny,
        lambda tensor: model.get_layer("dense_head")(tensor),
        recipe=recipe(dtype="float32"),
    )
    assert_equal_to(model, expected, atol=1e-7)
    second = expected[:, 1:]
    assert np.abs(np.asarray(unrounded(IMAGES)) - second).max() > 1e-6


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", ["dense", "logistic", "linear-svm", "sgd", "nearest-centroid"])
def test_heads_of_runs(tiny, kind, n_classes):
    model, expected = built(tiny, kind, recipe(pooling="max"), n_classes=n_classes)
    assert model.output.shape == (None, n_classes)
    assert_equal_to(model, expected, atol=1e-5)


def test_any_linear_class_of_scikit_learn(tiny):
    name = "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"
    assert_equal_to(*built(tiny, name, recipe(pooling="max"), n_classes=3), atol=1e-5)


def test_certain_probabilities_are_numbers(tiny):
    # The share of a class of sigmoids that are all zero in float32.
    wanted = recipe(pooling="max", dtype="float32")
    X = features(tiny, many(60), wanted)
    fit = SGDClassifier(loss="log_loss", alpha=1e-7, random_state=0).fit(X, np.arange(60) % 3)
    fit.coef_ *= 1e6
    head = Model(fit)
    model = assemble(tiny, head_layers(head, name="sgd"), recipe=wanted)
    found = np.asarray(model(IMAGES))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["knn", "random-forest", "sklearn.naive_bayes.GaussianNB"])
def test_other_heads_are_refused_with_those_that_can(tiny, kind):
    with pytest.raises(InvalidInput, match=r"layers.*dense, fine-tuned, logistic") as raised:
        built(tiny, kind, recipe(pooling="max"))
    assert kind in str(raised.value)
    assert "fs train" in raised.value.next_step


def test_input_and_output_are_named_and_only_kerass_layers_are_used(tiny, tmp_path):
    model, _ = built(tiny, "dense", recipe(preprocessing="torch", pooling="avg"))
    assert [(one.name, one.dtype, one.shape) for one in model.inputs] == [
        ("images", "uint8", (None, *SIZE, 3))
    ]
    assert model.output_names == ["probabilities"]
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    modules = set(_modules(config))
    assert modules >= {"keras.layers"}
    assert {name.partition(".")[0] for name in modules} == {"keras"}


def _modules(value):
    if isinstance(value, dict):
        if value.get("module"):
            yield value["module"]
        for item in value.values():
            yield from _modules(item)
    elif isinstance(value, list):
        for item in value:
            yield from _modules(item)
