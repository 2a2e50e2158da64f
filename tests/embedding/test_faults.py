"""A disk that fails at any operation: old sets stay readable, the new one is whole or absent."""

import errno
import shutil

import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.embedding import embed as embed_module
from featurestore.embedding.plan import plan_embedding
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.verify import verify_set


@pytest.fixture
def small_units(monkeypatch):
    """Several units from few images."""
    monkeypatch.setattr(
        embed_module,
        "plan_embedding",
        lambda manifest, **given: plan_embedding(manifest, **given, unit_rows=6),
    )


def embed(folder, cache, store, views=None):
    settings = fs.EmbedSettings(store=store, views=views)
    return fs.embed(folder, settings, cache=cache, choose=TinyChoice)


def contents(path):
    if path.is_file():
        return {}
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file != path / "zarr.json"
    }


@pytest.mark.parametrize(
    ("store", "views"),
    [("zarr", None), ("hdf5", None), pytest.param("zarr", 2, marks=pytest.mark.slow)],
)
@pytest.mark.usefixtures("small_units")
def test_each_operation_may_fail(tmp_path, store, views):
    folder, before = tmp_path / "photos", tmp_path / "before"
    write_image_folder(folder, splits={"train": 4, "test": 2})
    old = embed(folder, before, store)
    for number in range(9):
        new = encode(photograph(0, index=700 + number))
        (folder / "train" / "cats" / f"new{number}.jpg").write_bytes(new)
    calm = tmp_path / "calm"
    shutil.copytree(before, calm)
    operations = count_operations(lambda: embed(folder, calm, store, views))
    expected = Catalogue(calm).find(embed(folder, calm, store, views).fingerprint)
    assert operations > 20
    full_disk = 0
    for k in range(operations):
        cache = tmp_path / f"cache{k}"
        shutil.copytree(before, cache)
        with fail_operation(k, errno.ENOSPC) as log:
            try:
                result = embed(folder, cache, store, views)
            except fs.Conflict as error:
                full_disk += 1
                assert "is full" in error.message
            else:
                # Only what comes after the record may fail unseen.
                assert result.fingerprint == expected.fingerprint
            assert log.failed
        found = Catalogue(cache).records()
        assert old.fingerprint in {record.fingerprint for record in found}
        for record in found:
            verify_set(record)
        again = embed(folder, cache, store, views)
        assert again.fingerprint == expected.fingerprint
        current = Catalogue(cache).find(again.fingerprint)
        verify_set(current)
        assert current.content_sha256 == expected.content_sha256
        assert contents(current.store) == contents(expected.store)
        shutil.rmtree(cache)
    assert full_disk >= operations - 3
