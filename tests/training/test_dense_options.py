"""The dense head's optimizers, early stopping, class weights and numbers of classes."""

import keras
import numpy as np
import pytest
from sklearn.metrics import recall_score
from sklearn.utils.class_weight import compute_class_weight

from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryRows, blobs
from featurestore.training.contract import FitOptions
from featurestore.training.dense_network import OPTIMIZER_SLOTS, build_network, build_optimizer
from featurestore.training.heads import create_head, stored_settings
from featurestore.training.settings import OPTIMIZERS, DenseSettings

FIELDS = {"units": 16, "epochs": 15, "batch_size": 20, "learning_rate": 3e-3}
TRAIN = blobs(60, n_classes=2)


def fit(train, validation=None, *, n_classes=2, seed=0, **fields):
    head = create_head(DenseSettings(**{**FIELDS, **fields}))
    return head.fit(train, validation, options=FitOptions(n_classes=n_classes, seed=seed))


def weights(head):
    return [np.asarray(w) for w in head.model_.get_weights()]


def hard(rows, *, seed):
    """Return rows that are learned by heart and then judged worse: noise with some of a signal."""
    return blobs(rows, n_classes=2, seed=seed, distance=0.15, feature_shape=(40,))


def imbalanced(*, seed):
    """Return 285 rows of the first class and 15 of the second, which overlap."""
    rows = blobs(570, n_classes=2, seed=seed, distance=0.3)
    kept = np.concatenate([np.flatnonzero(rows.labels == 0), np.flatnonzero(rows.labels == 1)[:15]])
    return MemoryRows(rows.features[kept], rows.labels[kept])


def test_settings_of_runs_before_these_options_load():
    old = {
        "units": 256, "dropout": 0.0, "epochs": 30, "batch_size": 20, "learning_rate": 2e-5,
        "scaled": True,
    }  # fmt: skip
    assert stored_settings("dense", old) == DenseSettings()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lion"}, "optimizer: expected one of rmsprop, adam.*found lion"),
        ({"class_weight": "auto"}, "class_weight: expected one of none, balanced, found auto"),
        ({"patience": 0}, "patience: expected at least 1, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, message):
    with pytest.raises(InvalidInput, match=message):
        DenseSettings(**fields)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_steps_as_keras_own(optimizer):
    rate = 0.1 if optimizer == "sgd" else 3e-3
    head = fit(TRAIN, optimizer=optimizer, learning_rate=rate, epochs=2, seed=4)
    seeds = np.random.SeedSequence(4).generate_state(4)
    model = build_network(
        head.settings,
        (2, 2, 8),
        2,
        seeds=[int(seed) for seed in seeds[:3]],
        scale=1.0 / np.sqrt(np.mean(TRAIN.features.astype("float64") ** 2)),
    )
    classes = {"rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW", "nadam": "Nadam"}
    model.compile(
        getattr(keras.optimizers, classes.get(optimizer, "SGD"))(rate), "binary_crossentropy"
    )
    shuffles = np.random.default_rng(seeds[3])
    for _ in range(2):
        order = shuffles.permutation(60)
        for rows in order.reshape(3, 20):
            model.train_on_batch(TRAIN.features[rows].astype("float32"), TRAIN.labels[rows])
    for ours, theirs in zip(weights(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_early_stopping_keeps_the_epoch_of_the_lowest_validation_loss():
    train, validation = hard(80, seed=0), hard(200, seed=1)
    full = fit(train, validation, epochs=40)
    losses = full.history_["validation_loss"]
    best = int(np.argmin(losses))
    assert best < 30, "these rows must overfit"
    assert full.chosen_ == {} and full.notes_ == ()

    stopped = fit(train, validation, epochs=40, patience=5)
    assert stopped.chosen_ == {"epoch": best + 1}
    # The same epochs as without stopping, up to five that brought no lower loss.
    assert stopped.history_["validation_loss"] == losses[: best + 6]
    (note,) = stopped.notes_
    assert note.startswith(f"stopped after epoch {best + 6} of 40; kept epoch {best + 1}: ")
    # The weights are those of a fit that ended there.
    for ours, theirs in zip(weights(stopped), weights(fit(train, epochs=best + 1)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_best_weights_are_kept_where_the_epochs_end_first():
    train, validation = hard(80, seed=0), hard(200, seed=1)
    best = fit(train, validation, epochs=40, patience=5).chosen_["epoch"]
    head = fit(train, validation, epochs=best + 2, patience=5)
    assert head.chosen_ == {"epoch": best}
    assert head.notes_ == (f"kept epoch {best} of {best + 2}, of the lowest validation loss",)
    for ours, theirs in zip(weights(head), weights(fit(train, epochs=best)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_that_falls_to_the_end_needs_no_note():
    head = fit(TRAIN, TRAIN, epochs=3, patience=1)
    assert (head.chosen_, head.notes_) == ({"epoch": 3}, ())


@pytest.mark.parametrize("validation", [None, MemoryRows(TRAIN.features[:0], TRAIN.labels[:0])])
def test_early_stopping_without_validation_rows_is_refused(validation):
    with pytest.raises(InvalidInput, match="needs validation rows"):
        fit(TRAIN, validation, patience=2)


def test_class_weights_are_keras_own():
    # One step over all rows: the recorded loss, and the weights after it, are Keras's.
    train = imbalanced(seed=0)
    head = fit(train, train, class_weight="balanced", batch_size=300, epochs=1)
    balanced = compute_class_weight("balanced", classes=np.arange(2), y=train.labels)
    seeds = np.random.SeedSequence(0).generate_state(4)
    model = build_network(
        head.settings,
        (2, 2, 8),
        2,
        seeds=[int(seed) for seed in seeds[:3]],
        scale=1.0 / np.sqrt(np.mean(train.features.astype("float64") ** 2)),
    )
    model.compile(keras.optimizers.RMSprop(3e-3), "binary_crossentropy", metrics=["accuracy"])
    history = model.fit(
        train.features.astype("float32"),
        train.labels,
        batch_size=300,
        epochs=1,
        class_weight=dict(enumerate(balanced)),
        validation_data=(train.features.astype("float32"), train.labels),
        verbose=0,
    ).history
    for ours, theirs in (
        ("train_loss", "loss"),
        ("train_accuracy", "accuracy"),
        ("validation_loss", "val_loss"),
        ("validation_accuracy", "val_accuracy"),
    ):
        assert head.history_[ours] == pytest.approx(history[theirs], rel=1e-4)
    for ours, theirs in zip(weights(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_balanced_weights_raise_the_recall_of_the_rare_class():
    train, fresh = imbalanced(seed=0), blobs(400, n_classes=2, seed=9, distance=0.3)
    recall = {}
    for kind in ("none", "balanced"):
        head = fit(train, class_weight=kind, epochs=10)
        predicted = head.predict_proba(fresh.features).argmax(axis=1)
        recall[kind] = recall_score(fresh.labels, predicted, average=None)
    assert recall["balanced"][1] > recall["none"][1] + 0.2
    assert recall["balanced"][0] > 0.6


def test_balanced_weights_of_equal_classes_change_nothing():
    for a, b in zip(weights(fit(TRAIN)), weights(fit(TRAIN, class_weight="balanced")), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_hundred_classes():
    train, fresh = (blobs(rows, n_classes=100, seed=rows, distance=3) for rows in (1000, 500))
    head = fit(train, n_classes=100, units=64, learning_rate=3e-3, epochs=20)
    probabilities = head.predict_proba(fresh.features)
    assert probabilities.shape == (500, 100)
    assert np.mean(probabilities.argmax(axis=1) == fresh.labels) > 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_arrays_of_an_optimizer_are_as_many_as_stated(optimizer):
    model = build_network(DenseSettings(units=8), (4,), 3, seeds=[1, 2, 3], scale=1.0)
    made = build_optimizer(DenseSettings(optimizer=optimizer))
    made.build(model.trainable_variables)
    large = [array for array in made.variables if array.shape == (4, 8)]
    assert len(large) == OPTIMIZER_SLOTS[optimizer]


def test_network_larger_than_the_memory_is_refused_before_it_is_made():
    head = create_head(DenseSettings(units=10**8))
    with pytest.raises(InvalidInput, match=r"100000000 units on 32 values.*GiB allowed"):
        head.fit(TRAIN, None, options=FitOptions(n_classes=2))
    # 256 units on 32 values are 8,705 weights; RMSprop keeps one array, the gradient is another.
    head, needed = create_head(DenseSettings(epochs=1)), 4 * 8705 * 3
    head.fit(TRAIN, None, options=FitOptions(n_classes=2, memory_bytes=needed))
    with pytest.raises(InvalidInput, match="memory"):
        head.fit(TRAIN, None, options=FitOptions(n_classes=2, memory_bytes=needed - 1))
