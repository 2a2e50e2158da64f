"""Thumbnails of rows: of the embedded bytes or of nothing, whatever the files have become."""

import io
import shutil
from contextlib import contextmanager

import pytest
from browsed import tiny
from fastapi.testclient import TestClient
from PIL import Image

from featurestore.catalogue import Catalogue
from featurestore.features import open_record
from featurestore.service import thumbnails
from featurestore.service.app import create_app
from featurestore.service.contract import Limits, ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    write_image_folder(root / "photos", splits={"train": 3, "test": 3}, size=(100, 400))
    TinyEmbedder(root / "photos", root / "cache")()
    return root


@pytest.fixture
def own(made, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(made / "cache", tmp_path / "cache")
    shutil.copytree(made / "photos", tmp_path / "photos")
    return tmp_path


@contextmanager
def serving(cache, **settings):
    chosen = ServiceSettings(cache=cache, network=tiny, workers=1, **settings)
    with TestClient(create_app(chosen), base_url="http://127.0.0.1") as client:
        yield client


def newest(cache):
    return Catalogue(cache).find("photos")


def address(record, row, *, split="test", query=""):
    return f"/v1/feature-sets/{record.name}/images/{split}/{row}{query}"


def sample_path(record, root, row, *, split="test"):
    with open_record(record) as features:
        return root / "photos" / str(features[split].sample_ids[row])


def test_a_row_is_a_small_jpeg_of_its_own_image(made):
    record = newest(made / "cache")
    with serving(made / "cache") as client:
        for row in range(record.rows["test"]):
            answer = client.get(address(record, row))
            assert answer.headers["content-type"] == "image/jpeg"
            with (
                Image.open(io.BytesIO(answer.content)) as found,
                Image.open(sample_path(record, made, row)) as source,
            ):
                assert found.size == (160, 40)
                expected = source.convert("RGB").resize((16, 4), Image.Resampling.BOX)
                shown = found.resize((16, 4), Image.Resampling.BOX)
                apart = [
                    abs(a - b)
                    for a, b in zip(expected.tobytes(), shown.tobytes(), strict=True)
                ]  # fmt: skip
                assert sum(apart) / len(apart) < 4


def test_a_browser_keeps_the_image_of_a_version_and_asks_again_for_the_newest(made):
    record = newest(made / "cache")
    pinned = address(record, 0, query=f"?fingerprint={record.fingerprint[:16]}")
    with serving(made / "cache") as client:
        answer = client.get(pinned)
        assert "private" in answer.headers["cache-control"]
        assert "immutable" in answer.headers["cache-control"]
        plain = client.get(address(record, 0))
        assert plain.headers["cache-control"] == "private, no-cache"
        assert plain.headers["etag"] == answer.headers["etag"]
        again = client.get(pinned, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(address(record, 1)).headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("photos/none/images/test/0", 404),
        ("{name}/images/validation/0", 404),
        ("{name}/images/..%2f..%2fetc/0", 404),
        ("{name}/images/test/6", 404),
        ("{name}/images/test/99999999999999999999999", 404),
        ("{name}/images/test/-1", 422),
        ("{name}/images/test/one", 422),
        ("{name}/images/test/0?fingerprint=0000", 404),
    ],
)
def test_what_is_not_there_is_a_problem_document(made, path, status):
    name = newest(made / "cache").name
    with serving(made / "cache") as client:
        answer = client.get("/v1/feature-sets/" + path.format(name=name))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_changed_or_missing_file_is_not_found_with_the_reason(own):
    record = newest(own / "cache")
    changed, gone = (sample_path(record, own, row) for row in (0, 1))
    changed.write_bytes(encode(photograph(0, index=77)))
    gone.unlink()
    with serving(own / "cache", images=own / "photos") as client:
        for row, reason in ((0, "has changed"), (1, "gone")):
            answer = client.get(address(record, row))
            assert answer.status_code == 404
            assert reason in answer.json()["detail"]
        assert client.get(address(record, 2)).status_code == 200


def test_a_dataset_that_has_moved_is_found_where_the_service_is_told(own):
    record = newest(own / "cache")
    (own / "photos").rename(own / "elsewhere")
    with serving(own / "cache", images=own / "gone") as client:
        assert "no longer at" in client.get(address(record, 0)).json()["detail"]
    with serving(own / "cache", images=own / "elsewhere") as client:
        assert client.get(address(record, 0)).status_code == 200


def test_an_older_version_keeps_its_own_rows(tmp_path):
    embed = TinyEmbedder(tmp_path / "photos", tmp_path / "cache")
    for images in (3, 5):
        write_image_folder(tmp_path / "photos", splits={"train": 3, "test": images})
        embed()
        if images == 3:
            older = newest(tmp_path / "cache")
    record = newest(tmp_path / "cache")
    assert record.fingerprint != older.fingerprint
    query = f"?fingerprint={older.fingerprint[:8]}"
    with serving(tmp_path / "cache") as client:
        assert client.get(address(record, 9)).status_code == 200
        assert "0 to 5" in client.get(address(record, 9, query=query)).json()["detail"]


def test_pixels_beyond_the_limit_are_not_decoded(made):
    record = newest(made / "cache")
    with serving(made / "cache", limits=Limits(pixels=39_999)) as client:
        answer = client.get(address(record, 0))
    assert answer.status_code == 404
    assert "39,999 pixels" in answer.json()["detail"]


def test_memory_is_bounded(made, monkeypatch):
    record = newest(made / "cache")
    monkeypatch.setattr(thumbnails, "_KEPT_BYTES", 10_000)
    with serving(made / "cache") as client:
        sizes = [
            len(client.get(address(record, row, split=split)).content)
            for split in record.rows
            for row in range(record.rows[split])
        ]
        kept = client.app.state.service.thumbnails._kept
        assert sum(sizes) > 10_000
        assert 0 < sum(map(len, kept.values())) <= 10_000
