"""Thumbnails: of the embedded bytes or of nothing."""

import csv
import io
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.errors import NotFound
from featurestore.images import UnreadableImage, decode_thumbnail
from featurestore.report.photographs import Photographs
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph, write_image_folder


def embedded(source, cache, **settings):
    fs.embed(source, fs.EmbedSettings(name="photos", **settings), cache=cache, choose=TinyChoice)
    return Catalogue(cache).find("photos")


@pytest.fixture
def photos(tmp_path):
    write_image_folder(tmp_path / "photos", splits={"train": 3, "test": 3})
    return tmp_path / "photos"


@pytest.fixture
def record(photos, tmp_path):
    return embedded(photos, tmp_path / "cache")


def first_sample(record, split="test"):
    with fs.open(record.fingerprint, cache=record.store.parents[1]) as features:
        return str(features[split].sample_ids[0])


def test_a_thumbnail_is_a_small_upright_jpeg(photos, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # on its side: the pixels are to be turned clockwise
    path = next((photos / "test").glob("*/*"))
    upright = photograph(0, size=(400, 200))
    on_its_side = np.rot90(upright)
    Image.fromarray(on_its_side).save(path, "JPEG", exif=exif, quality=95)
    record = embedded(photos, tmp_path / "cache")
    found = Photographs(record).find("test", path.relative_to(photos).as_posix())
    assert (found.width, found.height, found.missing) == (80, 160, None)
    with Image.open(io.BytesIO(found.jpeg)) as image:
        assert (image.format, image.size) == ("JPEG", (80, 160))
        expected = Image.fromarray(upright).resize((80, 160), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 8


def test_every_sample_of_a_folder_is_found(record):
    photographs = Photographs(record)
    with fs.open(record.fingerprint, cache=record.store.parents[1]) as features:
        for split in features.splits:
            for sample_id in features[split].sample_ids:
                assert photographs.find(split, str(sample_id)).jpeg is not None


def test_a_changed_file_is_missing_though_it_is_an_image(record, photos):
    sample_id = first_sample(record)
    (photos / sample_id).write_bytes(encode(photograph(7)))
    found = Photographs(record).find("test", sample_id)
    assert found.jpeg is None
    assert "changed" in found.missing


@pytest.mark.parametrize("what", ["gone", "folder", "text"])
def test_a_file_that_is_no_longer_one_is_missing(record, photos, what):
    sample_id = first_sample(record)
    path = photos / sample_id
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("not an image, but as long as one")
    found = Photographs(record).find("test", sample_id)
    assert found.jpeg is None
    assert found.missing


def test_a_dataset_that_moved_is_found_where_it_is_said_to_be(record, photos, tmp_path):
    sample_id = first_sample(record)
    shutil.move(photos, tmp_path / "elsewhere")
    assert "no longer" in Photographs(record).find("test", sample_id).missing
    assert Photographs(record, tmp_path / "elsewhere").find("test", sample_id).jpeg


def test_names_in_another_unicode_form_are_found(photos, tmp_path):
    path = next((photos / "test").glob("*/*"))
    path.rename(path.with_name(unicodedata.normalize("NFD", "Käse.jpg")))
    record = embedded(photos, tmp_path / "cache")
    sample_id = f"test/{path.parent.name}/{unicodedata.normalize('NFC', 'Käse.jpg')}"
    assert Photographs(record).find("test", sample_id).jpeg is not None


def test_images_of_a_table_are_found_inside_and_outside_its_folder(photos, tmp_path):
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "list.csv"
    paths = sorted(photos.glob("*/*/*"))
    inside = tmp_path / "tables" / "inside.jpg"
    inside.write_bytes(encode(photograph(3)))
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "split"])
        rows.writerows([path, path.parent.name, path.parent.parent.name] for path in paths)
        rows.writerow(["inside.jpg", paths[0].parent.name, "test"])
    record = embedded(table, tmp_path / "cache")
    photographs = Photographs(record)
    assert photographs.find("test", "inside.jpg").jpeg is not None
    outside = next(path for path in paths if path.parent.parent.name == "test")
    assert photographs.find("test", outside.as_posix()).jpeg is not None


def test_an_unknown_sample_is_an_error(record):
    with pytest.raises(NotFound, match="no sample"):
        Photographs(record).find("test", "../../etc/passwd")
    with pytest.raises(NotFound, match="no split"):
        Photographs(record).find("holdout", "a.jpg")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 50), (40, 20)), ((50, 100), (20, 40)), ((30, 7), (30, 7)), ((4000, 1), (40, 1))],
)
def test_thumbnails_keep_proportions_and_are_never_enlarged(size, expected):
    pixels = decode_thumbnail(encode(photograph(0, size=size), "PNG"), longest=40)
    assert pixels.shape == (*expected, 3)


def test_a_thumbnail_has_the_limits_of_decoding():
    with pytest.raises(UnreadableImage, match="exceed the limit"):
        decode_thumbnail(encode(photograph(0)), longest=40, max_pixels=48 * 64 - 1)
    with pytest.raises(UnreadableImage, match="not an image"):
        decode_thumbnail(b"GIF is not enough", longest=40)
