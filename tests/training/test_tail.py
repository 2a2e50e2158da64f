"""The fine-tuned head: what it trains and what it leaves, its file, and its settings."""

import dataclasses
import json
import zipfile

import keras
import numpy as np
import pytest

from featurestore.backbones.architecture import assign, expected_layers, weighted_layers
from featurestore.backbones.cuts import last_frozen_layer, unfrozen_layers
from featurestore.backbones.network import untrained_network
from featurestore.backbones.random_weights import random_values
from featurestore.backbones.table import get_spec
from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.heads import MemoryRows
from featurestore.training.contract import FitOptions
from featurestore.training.dense_network import build_network
from featurestore.training.dense_steps import Training
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.heads import build_settings, create_head, stored_settings
from featurestore.training.settings import DenseSettings
from featurestore.training.streaming import RowSource
from featurestore.training.tail import FineTunedHead
from featurestore.training.tail_network import build_tail, count_parameters, start_from

SETTINGS = FineTuneSettings(
    backbone="mobilenet",
    size=(32, 32),
    layer="conv_pw_13_relu",
    pooling="avg",
    precision="float32",
    cut="conv_pw_12_relu",
    unfreeze=("conv_pw_13*",),
    statistics=False,
    units=8,
    dropout=0.0,
    scaled=True,
    epochs=3,
    batch_size=8,
    optimizer="rmsprop",
    learning_rate=1e-3,
    patience=None,
    class_weight="none",
)
SHAPE = (1, 1, 1024)


def rows(count=20, n_classes=2, seed=0):
    labels = np.arange(count) % n_classes
    noise = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    centres = np.random.default_rng(1).normal(size=(n_classes, *SHAPE))
    return MemoryRows(
        np.maximum(noise + centres[labels], 0).astype(np.float32), labels.astype(np.int64)
    )


def head(n_classes=2, **fields):
    """Return an unfitted head with a start."""
    settings = dataclasses.replace(SETTINGS, **fields)
    spec = get_spec(settings.backbone)
    base = untrained_network(spec, settings.layer, size=settings.size, precision=settings.precision)
    values = [random_values(layer, seed=0) for layer in expected_layers(base, base)]
    assign(base, values, spec=spec)
    pooled = (1024,) if settings.pooling != "none" else SHAPE
    dense = build_network(
        DenseSettings(units=settings.units, dropout=settings.dropout, scaled=settings.scaled),
        pooled,
        n_classes,
        seeds=[1, 2, 3],
        scale=0.5,
    )
    return FineTunedHead(settings, start_from(settings, base, dense))


def fit(unfitted, n_classes=2, train=None, **options):
    return unfitted.fit(
        train or rows(n_classes=n_classes), None, options=FitOptions(n_classes=n_classes, **options)
    )


@pytest.fixture(scope="module")
def fitted():
    return fit(head(), seed=3)


def by_layer(model):
    (tail,) = (layer for layer in model.layers if layer.name in ("tail", "as_pretrained"))
    part = getattr(tail, "part", tail)
    return {layer.name: layer.get_weights() for layer in weighted_layers(part)}


def moved(fitted_head):
    """Return, for each layer of the tail, which of its arrays the fit has changed."""
    before = build_tail(fitted_head.settings, fitted_head.n_classes_, scale=0.5)
    before.set_weights(fitted_head.start.weights)
    return {
        name: [bool((mine != theirs).any()) for mine, theirs in zip(arrays, after, strict=True)]
        for (name, arrays), after in zip(
            by_layer(before).items(), by_layer(fitted_head.model_).values(), strict=True
        )
    }


def test_the_named_layers_learn_and_statistics_stay(fitted):
    changed = moved(fitted)
    assert changed["conv_pw_13"] == [True]
    assert changed["conv_pw_13_bn"] == [True, True, False, False]  # scale, offset, statistics
    assert changed["conv_dw_13"] == [False]
    assert changed["conv_dw_13_bn"] == [False] * 4


def test_statistics_move_where_asked_and_unfrozen_alone():
    changed = moved(fit(head(statistics=True, epochs=1)))
    assert changed["conv_pw_13_bn"] == [True] * 4
    assert changed["conv_dw_13_bn"] == [False] * 4


def test_it_learns_and_a_fit_starts_afresh(fitted):
    losses = fitted.history_["train_loss"]
    assert losses[-1] < losses[0]
    first = fitted.predict_proba(rows(seed=5).features)
    again = fit(fitted, seed=3)
    np.testing.assert_array_equal(again.predict_proba(rows(seed=5).features), first)


def test_dropout_follows_the_seed():
    def losses(seed):
        return fit(head(dropout=0.5, epochs=1), seed=seed).history_["train_loss"]

    assert losses(1) == losses(1) != losses(2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns(precision):
    trained = fit(head(precision=precision))
    losses = trained.history_["train_loss"]
    assert losses[-1] < losses[0]
    assert moved(trained)["conv_pw_13"] == [True]
    assert {str(weight.dtype) for weight in trained.model_.weights} == {"float32"}
    assert trained.predict_proba(rows().features).dtype == np.float32


def test_float32_copy_of_a_mixed_head_is_close():
    trained = fit(head(precision="bfloat16"))
    features = rows(seed=5).features
    exact = trained.in_float32()
    assert exact.settings.precision == "float32"
    difference = np.abs(exact.predict_proba(features) - trained.predict_proba(features)).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("n_classes", [2, 3])
def test_round_trip(n_classes, tmp_path):
    trained = fit(head(n_classes), n_classes)
    path = tmp_path / "model.keras"
    trained.save(path)
    loaded = create_head(trained.settings).load(path, feature_shape=SHAPE, n_classes=n_classes)
    features = rows(seed=5).features
    probabilities = loaded.predict_proba(features)
    np.testing.assert_array_equal(probabilities, trained.predict_proba(features))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(loaded.predict_proba(features[3:4])[0], probabilities[3], atol=1e-6)
    assert loaded.predict_proba(features[:0]).shape == (0, n_classes)
    for shape, classes in ((SHAPE, n_classes + 1), ((2, 2, 1024), n_classes)):
        with pytest.raises(IntegrityError, match="expected the Keras model"):
            create_head(trained.settings).load(path, feature_shape=shape, n_classes=classes)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "gone", "scale", "dense", "infinite"])
def test_damaged_and_foreign_files_are_refused(fitted, damage, tmp_path):
    path = tmp_path / "model.keras"
    fitted.save(path)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "scale":
        _edit_config(path, lambda text: text.replace('"scale": 0.5', '"scale": "much"'))
    elif damage == "dense":
        settings = DenseSettings(units=8)
        build_network(settings, SHAPE, 2, seeds=[0, 0, 0], scale=1.0).save(path)
    elif damage == "infinite":
        weights = fitted.model_.get_weights()
        broken = [*weights[:-1], np.full_like(weights[-1], np.inf)]
        model = build_tail(fitted.settings, 2, scale=0.5)
        model.set_weights(broken)
        model.save(path)
    else:
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"no"}[damage])
    with pytest.raises(IntegrityError, match="model"):
        create_head(fitted.settings).load(path, feature_shape=SHAPE, n_classes=2)


def _edit_config(path, change):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["config.json"].decode()
    assert change(text) != text
    members["config.json"] = change(text).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_what_cannot_be_fitted_is_refused(fitted):
    with pytest.raises(InvalidInput, match="not fitted"):
        create_head(SETTINGS).predict_proba(rows().features)
    with pytest.raises(InvalidInput, match="weights of a run"):
        fit(create_head(SETTINGS))
    with pytest.raises(InvalidInput, match="memory"):
        fit(head(), memory_bytes=2**20)
    with pytest.raises(InvalidInput, match=r"\(1, 1, 1024\)"):
        wrong = MemoryRows(np.zeros((4, 1, 1, 3), np.float16), np.array([0, 1, 0, 1]))
        fit(head(), train=wrong)
    with pytest.raises(InvalidInput, match=r"\(1, 1, 1024\).*\(1024,\)"):
        fitted.predict_proba(np.zeros((1, 1024), np.float16))


def test_settings_come_back_from_json():
    stored = json.loads(json.dumps(SETTINGS.to_dict()))
    assert stored_settings("fine-tuned", stored) == SETTINGS
    with pytest.raises(InvalidInput, match="not chosen by name") as caught:
        build_settings("fine-tuned", stored)
    assert "--path fine-tune" in str(caught.value.next_step)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "vgg17"),
        ("size", [32]),
        ("size", ["32", "32"]),
        ("unfreeze", []),
        ("unfreeze", "block5"),
        ("statistics", 1),
        ("pooling", "sum"),
        ("optimizer", "lion"),
        ("learning_rate", 0),
    ],
)
def test_forged_settings_are_refused(field, value):
    with pytest.raises(IntegrityError, match="stored settings"):
        stored_settings("fine-tuned", SETTINGS.to_dict() | {field: value})


def test_parameters_of_the_reference():
    base = untrained_network(get_spec("vgg16"), "block5_pool", size=(150, 150))
    dense = build_network(DenseSettings(), (4, 4, 512), 2, seeds=[0, 0, 0], scale=1.0)
    unfrozen = unfrozen_layers(base, ["block5"])
    assert last_frozen_layer(base, unfrozen) == "block4_pool"
    assert count_parameters(base, dense, unfrozen) == {
        "base_total": 14_714_688,
        "base_trainable_before": 0,
        "base_trainable": 7_079_424,
        "total": 16_812_353,
        "trainable_before": 2_097_665,
        "trainable": 9_177_089,
        "non_trainable": 7_635_264,
    }


@pytest.mark.parametrize("convolution", [True, False])
def test_rows_that_fill_a_step_up_are_no_part_of_its_statistics(convolution):
    # Five rows in steps of four: the second has one row.
    image = keras.Input((1, 1, 2))
    features = keras.layers.Conv2D(2, 1)(image) if convolution else image
    normal = keras.layers.BatchNormalization(momentum=0.5)
    outputs = keras.layers.Flatten()(normal(features))
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid")(outputs))
    values = np.arange(10, dtype=np.float32).reshape(5, 1, 1, 2) + 1
    source = RowSource(MemoryRows(values, np.array([0, 1, 0, 1, 0])), held=True)
    training = Training(model, keras.optimizers.SGD(0.0), source, batch_size=4, class_weights=None)
    training.epoch(np.random.default_rng(0), epoch=1)
    seen = values.reshape(5, 2)[np.random.default_rng(0).permutation(5)]
    if convolution:
        seen = seen @ model.layers[1].get_weights()[0].reshape(2, 2)
    expected = 0.5 * (0.5 * seen[:4].mean(axis=0)) + 0.5 * seen[4]
    np.testing.assert_allclose(normal.moving_mean.numpy(), expected, rtol=1e-5)
