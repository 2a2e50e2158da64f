"""An audit of small embedded folders with planted trouble."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

import featurestore as fs
from featurestore.audit.balance import class_balance, quarantine_reasons
from featurestore.audit.findings import Sample
from featurestore.audit.run import AuditOptions, audit
from featurestore.catalogue import Quarantined
from featurestore.errors import InvalidInput
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder


def embedded(root):
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    return fs.open("photos", cache=root / "cache")


@pytest.fixture
def photos(tmp_path):
    write_image_folder(tmp_path / "photos", splits={"train": 8, "validation": 4, "test": 4})
    return tmp_path / "photos"


def copy(photos, source, target):
    (photos / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photos / source, photos / target)


def test_a_clean_set_has_no_leak(photos):
    with embedded(photos.parent) as features:
        found = audit(features, AuditOptions(threshold=0.99999))
    assert not found.leaks
    assert (found.identical.groups, found.remove, found.quarantine) == ((), {}, ())
    assert found.rows == {"train": 16, "validation": 8, "test": 8}
    assert found.near.looked_at == 32 * 31 // 2
    assert 0 < found.near.next_similarity < 0.99999


def test_identical_images_across_and_within_splits(photos):
    copy(photos, "train/cats/cats.0.jpg", "test/cats/leaked.jpg")
    copy(photos, "train/cats/cats.0.jpg", "validation/cats/leaked.jpg")
    copy(photos, "train/dogs/dogs.1.jpg", "train/dogs/again.jpg")
    copy(photos, "test/dogs/dogs.12.jpg", "test/cats/mislabelled.jpg")
    with embedded(photos.parent) as features:
        found = audit(features, AuditOptions(threshold=None))
    assert found.leaks and found.near is None
    identical = found.identical
    assert (identical.across, identical.within, identical.disagreeing) == (1, 2, 1)
    leak, labels, within = identical.groups
    assert leak.samples == (
        Sample("train", "train/cats/cats.0.jpg", "cats"),
        Sample("validation", "validation/cats/leaked.jpg", "cats"),
        Sample("test", "test/cats/leaked.jpg", "cats"),
    )
    assert (leak.leaks, labels.leaks, within.leaks) == (True, False, False)
    assert (leak.disagrees, labels.disagrees, within.disagrees) == (False, True, False)
    assert [sample.label for sample in labels.samples] == ["cats", "dogs"]
    assert len(leak.sha256) == 64
    assert found.remove == {
        "train": ("train/cats/cats.0.jpg",),
        "validation": ("validation/cats/leaked.jpg",),
    }


def test_removing_what_it_says_mends_the_set(photos):
    copy(photos, "train/cats/cats.0.jpg", "test/cats/leaked.jpg")
    copy(photos, "validation/dogs/dogs.8.jpg", "train/dogs/leaked.jpg")
    with Image.open(photos / "train" / "cats" / "cats.3.png") as image:
        image.save(photos / "validation" / "cats" / "near.bmp")  # the same pixels in other bytes
    with embedded(photos.parent) as features:
        found = audit(features, AuditOptions(threshold=0.99999))
    assert found.identical.across == 2
    assert (found.near.across, found.near.within) == (1, 0)
    (pair,) = found.near.pairs
    assert pair.leaks and pair.similarity == pytest.approx(1, abs=1e-6)
    assert (pair.first.sample_id, pair.second.sample_id) == (
        "train/cats/cats.3.png",
        "validation/cats/near.bmp",
    )
    for ids in found.remove.values():
        for sample_id in ids:
            (photos / sample_id).unlink()
    with embedded(photos.parent) as features:
        mended = audit(features, AuditOptions(threshold=0.99999))
    assert not mended.leaks and mended.remove == {}
    assert mended.rows == {"train": 14, "validation": 9, "test": 9}


def test_less_memory_finds_the_same(photos):
    with embedded(photos.parent) as features:
        columns = int(np.prod(features.record.feature_shape))
        whole = audit(features, AuditOptions(threshold=0.9))
        blocks = audit(features, AuditOptions(threshold=0.9, memory_bytes=40 * columns + 200))
    assert whole.near.across > 0
    assert [(p.first, p.second) for p in blocks.near.pairs] == [
        (p.first, p.second) for p in whole.near.pairs
    ]
    assert blocks.remove == whole.remove


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5])
def test_a_threshold_that_is_no_cosine_is_refused(threshold):
    with pytest.raises(InvalidInput, match="cosine above 0"):
        AuditOptions(threshold=threshold)


def test_quarantine_is_counted_by_reason_split_and_class(photos):
    for path in ("train/cats/a.jpg", "train/cats/b.jpg", "test/dogs/c.jpg"):
        (photos / path).write_bytes(b"")
    with embedded(photos.parent) as features:
        found = audit(features, AuditOptions(threshold=None))
    assert [(r.split, r.label, r.count) for r in found.quarantine] == [
        ("train", "cats", 2),
        ("test", "dogs", 1),
    ]
    assert "empty" in found.quarantine[0].reason


@pytest.mark.parametrize(
    ("sample_id", "place"),
    [
        ("Val/cats/a/1.jpg", ("validation", "cats")),
        ("cats/1.jpg", (None, "cats")),
        ("train/1.jpg", (None, None)),  # a class of that name, perhaps
        ("images/1.jpg", (None, None)),
        ("1.jpg", (None, None)),
        ("test/birds/1.jpg", ("test", None)),
    ],
)
def test_a_sample_id_tells_split_and_class_where_it_can(sample_id, place):
    (reason,) = quarantine_reasons([Quarantined(sample_id, None, "empty")], ["cats", "dogs"])
    assert ((reason.split, reason.label), reason.count) == (place, 1)


def test_balance_counts_shares_and_missing_classes():
    labels = {"train": np.repeat([0, 1, 2], [60, 30, 10]), "test": np.repeat([0, 1], [5, 15])}
    balance = class_balance(labels, ["a", "b", "c"])
    train, test = balance.splits
    assert train.counts == {"a": 60, "b": 30, "c": 10}
    assert (train.rows, train.largest_share, train.imbalance, train.missing) == (100, 0.6, 6.0, ())
    assert (test.imbalance, test.missing) == (None, ("c",))
    assert balance.largest_difference == pytest.approx(0.45)
    # By hand: expected counts of the table of 2 x 3, five of whose degrees are fixed by the sums.
    observed = np.array([[60, 30, 10], [5, 15, 0]])
    expected = observed.sum(1, keepdims=True) * observed.sum(0) / observed.sum()
    by_hand = chisquare(observed.ravel(), expected.ravel(), ddof=3)
    assert balance.p_value == pytest.approx(by_hand.pvalue)
    assert balance.least_expected == pytest.approx(expected.min())


def test_balance_of_one_split_or_one_class_is_not_tested():
    assert class_balance({"train": np.array([0, 1])}, ["a", "b"]).p_value is None
    one = class_balance({"train": np.zeros(3, int), "test": np.zeros(2, int)}, ["a"])
    assert (one.p_value, one.largest_difference) == (None, 0.0)
