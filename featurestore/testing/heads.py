"""What every head must do: `HeadConformance`, and from `testing.rows` what to do it on."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.testing.rows import RECIPE, MemoryFeatures, MemoryRows, blobs, varied
from featurestore.training.contract import FitOptions, Head, HeadSettings
from featurestore.training.heads import build_settings, create_head, stored_settings
from featurestore.training.views import ViewRows

__all__ = ["RECIPE", "HeadConformance", "MemoryFeatures", "MemoryRows", "blobs", "varied"]

Fitted = Callable[[int], Head]


class HeadConformance:
    """Inherit from it, name the head, and give settings under which it learns `blobs` quickly.

    `copies_tolerance` is how far a probability may move where every row comes several times.
    """

    head: ClassVar[str]
    fields: ClassVar[Mapping[str, object]]
    copies_tolerance: ClassVar[float] = 1e-4

    @pytest.fixture(params=[2, 3], ids=["two-classes", "three-classes"])
    def n_classes(self, request: pytest.FixtureRequest) -> int:
        """Both the single sigmoid output and one output a class."""
        return int(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> Fitted:
        """Return the head of a number of classes; its tests share it, and only read it."""
        return functools.cache(cls.fit)

    @classmethod
    def settings(cls) -> HeadSettings:
        """Return the settings under test."""
        return build_settings(cls.head, cls.fields)

    @classmethod
    def fit(cls, n_classes: int) -> Head:
        """Return a new head fitted to 66 blobs."""
        train = blobs(66, n_classes=n_classes)
        return create_head(cls.settings()).fit(
            train, None, options=FitOptions(n_classes=n_classes, seed=3)
        )

    def test_constructor_only_stores(self) -> None:
        """Nothing is learned, or computed, before `fit`."""
        settings = self.settings()
        head = create_head(settings)
        assert head.settings is settings
        assert [name for name in vars(head) if name.endswith("_")] == []

    def test_unfitted_head_refuses(self) -> None:
        """Probabilities before `fit` are an error of the caller."""
        with pytest.raises(InvalidInput, match="not fitted"):
            create_head(self.settings()).predict_proba(np.zeros((1, 2, 2, 8), np.float16))

    def test_fit_learns(self, fitted: Fitted, n_classes: int) -> None:
        """Fresh rows of separable classes are told apart, and columns are in class order."""
        fresh = blobs(200, n_classes=n_classes, seed=9)
        predicted = fitted(n_classes).predict_proba(fresh.features).argmax(axis=1)
        assert np.mean(predicted == fresh.labels) > 0.9

    def test_views_are_learned_from(self, n_classes: int, tmp_path: Path) -> None:
        """Images with views that vary are learned too, and the head is saved as others are."""
        train = ViewRows(varied(blobs(66, n_classes=n_classes), views=3), views=3, seed=3)
        options = FitOptions(n_classes=n_classes, seed=3)
        head = create_head(self.settings()).fit(train, None, options=options)
        fresh = blobs(200, n_classes=n_classes, seed=9)
        found = head.predict_proba(fresh.features)
        assert np.mean(found.argmax(axis=1) == fresh.labels) > 0.9
        path = tmp_path / f"model{head.suffix}"
        head.save(path)
        loaded = create_head(self.settings()).load(
            path, feature_shape=(2, 2, 8), n_classes=n_classes
        )
        np.testing.assert_array_equal(loaded.predict_proba(fresh.features), found)

    def test_views_move_the_fit(self) -> None:
        """A head that left the views out would be the one without them."""
        rows = varied(blobs(66, n_classes=2, distance=0.5), views=3, spread=30.0)
        options = FitOptions(n_classes=2, seed=3)
        with_views, without = (
            create_head(self.settings()).fit(each, None, options=options)
            for each in (ViewRows(rows, views=3, seed=3), rows)
        )
        fresh = blobs(200, n_classes=2, distance=0.5, seed=9).features
        moved = np.abs(with_views.predict_proba(fresh) - without.predict_proba(fresh))
        assert moved.max() > 0.01

    @pytest.mark.parametrize("views", [1, 3])
    def test_views_that_are_copies_change_nothing(self, n_classes: int, views: int) -> None:
        """An image counts once, however many views it has, and the settings mean the same."""
        rows = blobs(66, n_classes=n_classes, distance=0.5)
        copies = dataclasses.replace(rows, versions=np.stack([rows.features] * views))
        options = FitOptions(n_classes=n_classes, seed=3)
        once, several = (
            create_head(self.settings()).fit(each, None, options=options)
            for each in (rows, ViewRows(copies, views=views, seed=3))
        )
        fresh = blobs(100, n_classes=n_classes, distance=0.5, seed=9).features
        np.testing.assert_allclose(
            several.predict_proba(fresh), once.predict_proba(fresh), atol=self.copies_tolerance
        )
        for name in ("c", "folds"):
            assert several.chosen_.get(name) == once.chosen_.get(name)

    def test_fit_sets_what_was_learned(self, n_classes: int) -> None:
        """`fit` returns the head, with the sizes it was fitted to; the settings stay."""
        settings = self.settings()
        head = create_head(settings)
        train = blobs(66, n_classes=n_classes)
        assert head.fit(train, train, options=FitOptions(n_classes=n_classes)) is head
        assert head.settings is settings
        assert head.n_classes_ == n_classes
        assert head.feature_shape_ == (2, 2, 8)
        assert isinstance(head.notes_, tuple)
        json.dumps(head.chosen_)

    def test_settings_come_back_from_json(self) -> None:
        """A run's record gives the settings again."""
        settings = self.settings()
        stored = json.loads(json.dumps(settings.to_dict()))
        assert stored_settings(settings.head, stored) == settings

    def test_only_a_seed_that_is_used_matters(self) -> None:
        """A head that says it does not use the seed is the same under any."""
        if self.settings().uses_seed:
            pytest.skip("this head uses its seed")
        train = blobs(66, n_classes=2, distance=0.5)
        first, second = (
            create_head(self.settings()).fit(
                train, None, options=FitOptions(n_classes=2, seed=seed)
            )
            for seed in (0, 1)
        )
        np.testing.assert_array_equal(
            first.predict_proba(train.features), second.predict_proba(train.features)
        )

    def test_rare_class_keeps_its_column(self) -> None:
        """Three rows of a class among 63 are enough; a class may be missing from validation."""
        rows = blobs(120, n_classes=3)
        kept = np.sort(
            np.concatenate(
                [np.flatnonzero(rows.labels == k)[: 30 - 27 * (k == 1)] for k in range(3)]
            )
        )
        train = MemoryRows(rows.features[kept], rows.labels[kept])
        held = MemoryRows(rows.features[::3], rows.labels[::3])  # of the first class only
        head = create_head(self.settings()).fit(train, held, options=FitOptions(n_classes=3))
        fresh = blobs(150, n_classes=3, seed=9)
        predicted = head.predict_proba(fresh.features).argmax(axis=1)
        assert np.mean(predicted[fresh.labels != 1] == fresh.labels[fresh.labels != 1]) > 0.8

    def test_too_little_memory_is_refused(self) -> None:
        """Sixteen bytes hold no row: the head says so, whether it streams or not."""
        train = blobs(66, n_classes=2)
        with pytest.raises(InvalidInput, match="memory"):
            create_head(self.settings()).fit(
                train, None, options=FitOptions(n_classes=2, memory_bytes=16)
            )

    def test_history_has_one_number_an_epoch(self) -> None:
        """Curves of one fit are equally long, and a validation curve needs validation rows."""
        train, both = blobs(40, n_classes=2), {"train", "validation"}
        nothing = MemoryRows(train.features[:0], train.labels[:0])
        for validation, splits in ((None, {"train"}), (nothing, {"train"}), (train, both)):
            head = create_head(self.settings())
            head.fit(train, validation, options=FitOptions(n_classes=2))
            names = {f"{split}_{what}" for split in splits for what in ("loss", "accuracy")}
            assert set(head.history_) in (set(), names)
            assert len({len(curve) for curve in head.history_.values()}) <= 1

    def test_same_seed_same_head(self, fitted: Fitted, n_classes: int) -> None:
        """A second fit starts afresh, whether of the same object or of another."""
        rows = blobs(50, n_classes=n_classes, seed=9).features
        first = fitted(n_classes).predict_proba(rows)
        head = self.fit(n_classes)
        np.testing.assert_array_equal(head.predict_proba(rows), first)
        options = FitOptions(n_classes=n_classes, seed=3)
        head.fit(blobs(66, n_classes=n_classes), None, options=options)
        np.testing.assert_array_equal(head.predict_proba(rows), first)

    def test_refit_to_other_rows(self) -> None:
        """A head may be fitted again to another number of classes and another shape."""
        head = self.fit(2)
        train = blobs(60, n_classes=3, feature_shape=(5,))
        head.fit(train, None, options=FitOptions(n_classes=3))
        assert head.predict_proba(train.features).shape == (60, 3)

    def test_global_random_state_is_left_alone(self) -> None:
        """Fitting neither reads nor moves the generators of `random` and NumPy."""
        random.seed(5)
        np.random.seed(5)
        before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # a tuple by default
        self.fit(2)
        after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # a tuple by default
        assert before == after

    def test_probabilities(self, fitted: Fitted, n_classes: int) -> None:
        """A column for each class, float32 in [0, 1], rows sum to one, even far from the data."""
        rows = blobs(130, n_classes=n_classes, seed=9).features
        probabilities = fitted(n_classes).predict_proba(np.concatenate([rows, rows * 100]))
        assert probabilities.shape == (260, n_classes)
        assert probabilities.dtype == np.float32
        assert probabilities.min() >= 0 and probabilities.max() <= 1
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)

    def test_no_rows(self, fitted: Fitted, n_classes: int) -> None:
        """No rows in, no rows out."""
        nothing = np.empty((0, 2, 2, 8), np.float16)
        assert fitted(n_classes).predict_proba(nothing).shape == (0, n_classes)

    def test_row_does_not_depend_on_its_neighbours(self, fitted: Fitted) -> None:
        """One row alone gets what it gets among more rows than any block holds."""
        rows = blobs(1100, n_classes=2, seed=9).features
        head = fitted(2)
        together = head.predict_proba(rows)
        for i in (0, 511, 512, 1099):
            np.testing.assert_allclose(
                head.predict_proba(rows[i : i + 1])[0], together[i], atol=1e-6
            )

    def test_stored_type_does_not_matter(self) -> None:
        """Equal values in float16 and float32 give equal heads."""
        half = blobs(66, n_classes=2)
        full = MemoryRows(half.features.astype(np.float32), half.labels)
        heads = [
            create_head(self.settings()).fit(rows, None, options=FitOptions(n_classes=2))
            for rows in (half, full)
        ]
        np.testing.assert_allclose(
            heads[0].predict_proba(half.features),
            heads[1].predict_proba(full.features),
            atol=1e-6,
        )

    def test_other_shape_is_refused(self, fitted: Fitted) -> None:
        """Rows of another shape are refused, even with as many values."""
        with pytest.raises(InvalidInput, match=r"\(2, 2, 8\).*\(4, 8\)"):
            fitted(2).predict_proba(np.zeros((1, 4, 8), np.float16))

    def test_round_trip(self, fitted: Fitted, n_classes: int, tmp_path: Path) -> None:
        """A saved head gives the same probabilities to the last bit, and can be saved again."""
        head = fitted(n_classes)
        rows = blobs(50, n_classes=n_classes, seed=9).features
        for name in ("first", "second"):
            path = tmp_path / f"{name}{head.suffix}"
            head.save(path)
            loaded = create_head(self.settings()).load(
                path, feature_shape=(2, 2, 8), n_classes=n_classes
            )
            np.testing.assert_array_equal(loaded.predict_proba(rows), head.predict_proba(rows))
            assert (loaded.n_classes_, loaded.feature_shape_) == (n_classes, (2, 2, 8))
            assert (loaded.history_, loaded.chosen_, loaded.notes_) == ({}, {}, ())
            head = loaded

    @pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text", "gone"])
    def test_damaged_model_is_refused(self, fitted: Fitted, damage: str, tmp_path: Path) -> None:
        """A file that is not a whole model is an integrity error, not a traceback."""
        head = fitted(2)
        path = tmp_path / f"model{head.suffix}"
        head.save(path)
        whole = path.read_bytes()
        half = whole[: len(whole) // 2]
        damaged = {"empty": b"", "half": half, "flipped": _flipped(path), "text": b"no model"}
        path.unlink()
        if damage in damaged:
            path.write_bytes(damaged[damage])
        with pytest.raises(IntegrityError, match="model"):
            create_head(self.settings()).load(path, feature_shape=(2, 2, 8), n_classes=2)

    def test_model_of_another_size_is_refused(self, fitted: Fitted, tmp_path: Path) -> None:
        """A model for other features or classes is not taken for the one expected."""
        head = fitted(3)
        path = tmp_path / f"model{head.suffix}"
        head.save(path)
        for shape, n_classes in (((2, 2, 9), 3), ((2, 2, 8), 4), ((2, 2, 8), 2)):
            with pytest.raises(IntegrityError, match="expected"):
                create_head(self.settings()).load(path, feature_shape=shape, n_classes=n_classes)

    def test_versions(self) -> None:
        """The libraries that decide the numbers are named with a version each."""
        versions = create_head(self.settings()).versions()
        assert versions and all(text[0].isdigit() for text in versions.values())


def _flipped(path: Path) -> bytes:
    """Return a zip file with one byte of its largest member flipped, so that it reads otherwise.

    One in 500 deflated bytes says the same when it is flipped: that a text which is there several
    times is to be copied from another place. Such a file is undamaged.
    """
    whole, at = path.read_bytes(), _middle_of_largest_member(path)
    while True:
        flipped = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
        try:
            with zipfile.ZipFile(io.BytesIO(flipped)) as archive:
                if archive.testzip() is not None:
                    return flipped
        except (zipfile.BadZipFile, zlib.error):
            return flipped
        at += 1


def _middle_of_largest_member(path: Path) -> int:
    """Return a position within the content of a zip file: others may say nothing."""
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.compress_size)
    header = path.read_bytes()[member.header_offset :][:30]
    # Source: APPNOTE.TXT 4.3.7: 30 bytes, of them two lengths from 26, then what has those lengths.
    name, extra = struct.unpack("<HH", header[26:30])
    return int(member.header_offset + 30 + name + extra + member.compress_size // 2)
