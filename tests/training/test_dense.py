"""The dense head: the conformance suite, and what is its own."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs
from featurestore.training.contract import FitOptions
from featurestore.training.dense_network import build_network
from featurestore.training.heads import create_head
from featurestore.training.settings import DenseSettings

FIELDS = {"units": 16, "epochs": 15, "batch_size": 20, "learning_rate": 3e-3}
TRAIN = blobs(40, n_classes=2)


class TestDense(HeadConformance):
    head = "dense"
    fields = FIELDS


def fit(train, validation=None, *, n_classes=2, seed=0, **fields):
    head = create_head(DenseSettings(**{**FIELDS, **fields}))
    return head.fit(train, validation, options=FitOptions(n_classes=n_classes, seed=seed))


@pytest.fixture(scope="module")
def base():
    """A head of seed 0 and no dropout, fitted to the 40 rows of `TRAIN`."""
    return fit(TRAIN)


def weights(head):
    return [np.asarray(w) for w in head.model_.get_weights()]


def test_defaults_are_the_reference_network():
    # 2,097,665 trainable parameters: the reference's Flatten, Dense(256), Dense(1) on (4, 4, 512).
    settings = DenseSettings()
    model = build_network(settings, (4, 4, 512), 2, seeds=[1, 2, 3], scale=0.5)
    assert model.count_params() == 2_097_665
    assert [layer.activation.__name__ for layer in model.layers[2:]] == ["relu", "sigmoid"]
    assert (model.layers[1].name, model.layers[1].scale) == ("scale", 0.5)
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (30, 20, 2e-5)
    many = build_network(settings, (512,), 7, seeds=[1, 2, 3], scale=1.0)
    assert many.output_shape == (None, 7)
    assert many.layers[-1].activation.__name__ == "softmax"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_compiled_step_is_keras_own(n_classes):
    # The same batches through Keras's own train_on_batch; 53 rows leave a last batch of 13.
    train = blobs(53, n_classes=n_classes)
    seen = []
    head = create_head(DenseSettings(**{**FIELDS, "epochs": 3}))
    options = FitOptions(n_classes=n_classes, seed=4, progress=lambda *epoch: seen.append(epoch))
    head.fit(train, None, options=options)
    assert [epoch[:2] for epoch in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [epoch[2]["train_loss"] for epoch in seen] == head.history_["train_loss"]

    seeds = np.random.SeedSequence(4).generate_state(4)
    model = build_network(
        DenseSettings(**FIELDS),
        (2, 2, 8),
        n_classes,
        seeds=[int(seed) for seed in seeds[:3]],
        scale=1.0 / np.sqrt(np.mean(train.features.astype("float64") ** 2)),
    )
    loss = "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.RMSprop(FIELDS["learning_rate"]), loss)
    shuffles = np.random.default_rng(seeds[3])
    for epoch in range(3):
        order = shuffles.permutation(53)
        losses = []
        for start in range(0, 53, 20):
            rows = order[start : start + 20]
            model.reset_metrics()
            value = model.train_on_batch(train.features[rows].astype("float32"), train.labels[rows])
            losses.append(float(value) * len(rows))
        assert head.history_["train_loss"][epoch] == pytest.approx(sum(losses) / 53, rel=1e-4)
    for ours, theirs in zip(weights(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_every_row_is_trained_on_once_an_epoch():
    # One epoch of batches of 20 over 41 rows: the last step has one row. Leaving it out would give
    # the head of 40 rows in the same order.
    train = blobs(41, n_classes=2)
    order = np.random.default_rng(np.random.SeedSequence(0).generate_state(4)[3]).permutation(41)
    changed = train.features.copy()
    changed[order[-1]] = 200 - changed[order[-1]]
    heads = [fit(rows, epochs=1) for rows in (train, MemoryRows(changed, train.labels))]
    assert not np.array_equal(weights(heads[0])[0], weights(heads[1])[0])


def test_scaling_makes_the_scale_of_features_irrelevant():
    larger = MemoryRows(TRAIN.features.astype("float32") * 512, TRAIN.labels)
    same, other = fit(larger), fit(larger, scaled=False)
    base = fit(MemoryRows(TRAIN.features.astype("float32"), TRAIN.labels))
    np.testing.assert_allclose(weights(same)[0], weights(base)[0], atol=1e-5)
    assert not np.allclose(weights(other)[0], weights(base)[0], atol=1e-2)


@pytest.mark.parametrize("power", [60, 110, -110])
def test_scaling_of_values_whose_squares_float32_does_not_hold(base, power):
    wide = MemoryRows(TRAIN.features.astype("float32") * np.float32(2.0**power), TRAIN.labels)
    for ours, theirs in zip(weights(fit(wide)), weights(base), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_features_that_no_scale_brings_to_one_are_refused(value):
    features = np.full_like(TRAIN.features, value, np.float32)
    with pytest.raises(InvalidInput, match="root mean square"):
        fit(MemoryRows(features, TRAIN.labels))


def test_batch_larger_than_the_split():
    head = fit(blobs(11, n_classes=2), batch_size=64, epochs=2)
    assert len(head.history_["train_loss"]) == 2


def test_other_seed_other_head(base):
    assert not np.array_equal(weights(fit(TRAIN, seed=1))[0], weights(base)[0])


def test_validation_decides_nothing(base):
    validated = fit(TRAIN, blobs(700, n_classes=2))
    for a, b in zip(weights(validated), weights(base), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_history_is_what_keras_would_evaluate(n_classes):
    # Hard rows, few epochs and dropout: many probabilities near one half, and a validation pass
    # that drops units would show.
    train = blobs(60, n_classes=n_classes, distance=0.3)
    validation = blobs(701, n_classes=n_classes, seed=2, distance=0.3)
    head = fit(train, validation, n_classes=n_classes, epochs=2, dropout=0.5)
    kind = "binary" if n_classes == 2 else "sparse_categorical"
    head.model_.compile(loss=f"{kind}_crossentropy", metrics=["accuracy"])
    loss, accuracy = head.model_.evaluate(
        validation.features.astype("float32"), validation.labels, verbose=0
    )
    assert head.history_["validation_loss"][-1] == pytest.approx(loss, rel=1e-4)
    assert head.history_["validation_accuracy"][-1] == pytest.approx(accuracy)


def test_saturated_output_still_learns():
    # Rows a thousand times too large saturate the sigmoid; a loss of clipped probabilities would
    # have no gradient and never recover.
    train = blobs(80, n_classes=2)
    flipped = MemoryRows(train.features.astype("float32") * 1000, train.labels)
    head = fit(flipped, epochs=40, learning_rate=1e-2)
    assert head.history_["train_accuracy"][-1] > 0.95


def test_divergence_is_an_error():
    with pytest.raises(InvalidInput, match=r"loss is (nan|inf) after epoch \d+.*\n.*learning-rate"):
        fit(blobs(40, n_classes=2), learning_rate=1e30)


def test_keras_global_seed_is_left_alone():
    keras.utils.set_random_seed(11)
    expected = np.asarray(keras.random.normal((4,)))
    keras.utils.set_random_seed(11)
    fit(blobs(40, n_classes=2), dropout=0.5)
    np.testing.assert_array_equal(np.asarray(keras.random.normal((4,))), expected)


def test_mixed_precision_of_a_backbone_does_not_reach_the_head(base):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = fit(TRAIN)
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(weights(mixed)[0], weights(base)[0])


def load(path, **fields):
    head = create_head(DenseSettings(**{**FIELDS, **fields}))
    return head.load(path, feature_shape=(2, 2, 8), n_classes=2)


def with_config(head, change, path):
    """Save a head with a changed configuration."""
    head.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config = change(config, config["config"]["layers"]) or config
    files["config.json"] = config if isinstance(config, bytes) else json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_foreign_keras_model_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((2, 2, 8)), keras.layers.GlobalMaxPooling2D()]).save(path)
    with pytest.raises(IntegrityError, match=r"expected the Keras model.*\(2, 2, 8\) -> 16 units"):
        load(path)


def test_layers_of_the_file_are_never_made(base, monkeypatch, tmp_path):
    hostile = {"module": "keras.layers", "class_name": "Lambda", "config": {}}
    path = with_config(base, lambda _, layers: layers.insert(1, hostile), tmp_path / "model.keras")
    monkeypatch.setattr(keras.Sequential, "from_config", None)
    with pytest.raises(IntegrityError, match=r"its layers are .*Lambda"):
        load(path)
    base.save(tmp_path / "whole.keras")
    loaded = load(tmp_path / "whole.keras")
    np.testing.assert_array_equal(
        loaded.predict_proba(TRAIN.features), base.predict_proba(TRAIN.features)
    )


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [
        (2, "scale", None),
        (2, "scale", "x"),
        (2, "scale", -1.0),
        (2, "scale", float("nan")),
        (2, "offset", 1.0),
        (3, "units", 2 * 10**8),  # 51 GB, were it made
        (3, "units", "x"),
        (3, "activation", "tanh"),
        (3, "activation", {"class_name": "function", "config": "get_file"}),
        (0, "batch_shape", [None, 10**9]),
    ],
)
def test_other_configuration_is_refused(base, layer, field, value, tmp_path):
    def change(_, layers):
        layers[layer]["config"][field] = value

    with pytest.raises(IntegrityError, match="expected the Keras model"):
        load(with_config(base, change, tmp_path / "model.keras"))


@pytest.mark.parametrize(
    "content",
    [b"[1]", b"null", b'{"config": 5}', b'{"config": {"layers": [3]}}', b"[" * 10**5, b" " * 2**21],
)
def test_configuration_that_is_none_is_refused(base, content, tmp_path):
    with pytest.raises(IntegrityError, match="expected the Keras model"):
        load(with_config(base, lambda *_: content, tmp_path / "model.keras"))


@pytest.mark.parametrize("fields", [{"units": 17}, {"dropout": 0.5}, {"scaled": False}])
def test_network_of_other_settings_is_refused(base, fields, tmp_path):
    base.save(tmp_path / "model.keras")
    with pytest.raises(IntegrityError, match="expected the Keras model"):
        load(tmp_path / "model.keras", **fields)


@pytest.mark.parametrize("change", [lambda a: a[:, :7], lambda a: a * np.nan, None])
def test_other_weights_are_refused(base, change, tmp_path):
    path = tmp_path / "model.keras"
    base.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with h5py.File(io.BytesIO(files["model.weights.h5"]), "r+") as weights:
        group = weights["layers/dense/vars"]
        kernel = group["0"][:]
        del group["0"]
        if change is not None:
            group["0"] = change(kernel)
        weights.flush()
        content = weights.id.get_file_image()
    with zipfile.ZipFile(path, "w") as archive:
        for name, whole in files.items():
            archive.writestr(name, content if name.endswith("h5") else whole)
    with pytest.raises(IntegrityError, match="expected the Keras model"):
        load(path)


def test_dropout_round_trips_and_is_off_in_prediction(base, tmp_path):
    head = fit(TRAIN, dropout=0.5)
    assert not np.array_equal(weights(base)[0], weights(head)[0])
    expected = head.predict_proba(TRAIN.features)
    np.testing.assert_array_equal(head.predict_proba(TRAIN.features), expected)
    head.save(tmp_path / "model.keras")
    again = create_head(head.settings).load(
        tmp_path / "model.keras", feature_shape=(2, 2, 8), n_classes=2
    )
    np.testing.assert_array_equal(again.predict_proba(TRAIN.features), expected)
