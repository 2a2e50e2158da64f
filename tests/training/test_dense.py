"""The dense head: the conformance suite, and what is its own."""

import json
import zipfile

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


def test_foreign_keras_model_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((2, 2, 8)), keras.layers.GlobalMaxPooling2D()]).save(path)
    with pytest.raises(IntegrityError, match="expected a dense head"):
        create_head(DenseSettings(**FIELDS)).load(path, feature_shape=(2, 2, 8), n_classes=2)


def test_code_in_a_model_is_not_run(tmp_path):
    path, ran = tmp_path / "model.keras", tmp_path / "ran"
    target = str(ran)
    inputs = keras.Input((2, 2, 8))
    hostile = keras.layers.Lambda(lambda x: open(target, "w") and x)  # noqa: SIM115
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["layers"][1]["class_name"] = "Lambda"
    config["config"]["layers"][1]["config"] = keras.saving.serialize_keras_object(hostile)["config"]
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(IntegrityError, match="safe mode"):
        create_head(DenseSettings(**FIELDS)).load(path, feature_shape=(2, 2, 8), n_classes=2)
    assert not ran.exists()


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
