"""A reader written from docs/format.md alone: if this fails, the page is wrong or the format is."""

import hashlib
import json
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from numcodecs.zstd import Zstd

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = [1, 2]
SPLITS = ["train", "validation", "test"]


def crc32c(data):
    """Castagnoli's polynomial, reflected, bit by bit. Source: RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283


def checked(stored):
    body, crc = stored[:-4], struct.unpack("<I", stored[-4:])[0]
    assert crc32c(body) == crc
    return body


def read_zarr_array(store, path, document):
    if path.endswith("views/features"):
        return [
            read_zarr_rows(store, path, document, [view]) for view in range(document["shape"][0])
        ]
    return read_zarr_rows(store, path, document, [])


def read_zarr_rows(store, path, document, view):
    """Return all rows, of `view` [k] where the array has an axis of views, else []."""
    shape = document["shape"][len(view) :]
    file_shape = document["chunk_grid"]["configuration"]["chunk_shape"][len(view) :]
    codecs = document["codecs"]
    sharding = codecs[0]["configuration"] if codecs[0]["name"] == "sharding_indexed" else None
    chunk_shape = sharding["chunk_shape"][len(view) :] if sharding else file_shape
    slots = file_shape[0] // chunk_shape[0]
    values = []
    for chunk in range(-(-shape[0] // chunk_shape[0])):
        name = ".".join(["c", *map(str, view), str(chunk // slots), *["0"] * (len(shape) - 1)])
        stored = (store / path / name).read_bytes()
        if sharding:
            index = checked(stored[-(16 * slots + 4) :])
            offset, length = struct.unpack_from("<QQ", index, chunk % slots * 16)
            assert offset != 2**64 - 1
            stored = stored[offset : offset + length]
        raw = Zstd().decode(checked(stored))
        values += decode_items(raw, document["data_type"], chunk_shape)
    return values[: shape[0]]


def decode_items(raw, data_type, chunk_shape):
    if data_type != "string":
        return list(np.frombuffer(raw, np.dtype(data_type).newbyteorder("<")).reshape(chunk_shape))
    (count,) = struct.unpack_from("<I", raw)
    position, texts = 4, []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", raw, position)
        texts.append(raw[position + 4 : position + 4 + length].decode())
        position += 4 + length
    assert count == chunk_shape[0]
    assert position == len(raw)
    return texts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["unsharded.zarr", "sharded.zarr"])
def test_zarr_reads_as_the_page_says(name, version):
    store = GOLDEN / f"format-{version}" / name
    text = (store / "zarr.json").read_bytes()
    root = json.loads(text)
    signature = root["attributes"]["metadata_sha256"]
    assert hashlib.sha256(text.replace(signature.encode(), b"-" * 64)).hexdigest() == signature
    members = root["consolidated_metadata"]["metadata"]
    assert [path for path in members if "/" not in path] == SPLITS
    for path, document in members.items():
        own = json.loads((store / path / "zarr.json").read_bytes())
        assert own == {key: document[key] for key in own}
    arrays = {
        path: read_zarr_array(store, path, document)
        for path, document in members.items()
        if document["node_type"] == "array"
    }
    assert_is_golden(root["attributes"], arrays, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_hdf5_reads_as_the_page_says(version):
    with h5py.File(GOLDEN / f"format-{version}" / "gzip.h5") as file:
        texts = {
            name: value.decode() if isinstance(value, bytes) else json.dumps(value.item())
            for name, value in file.attrs.items()
        }
        recorded = texts.pop("metadata_sha256")
        ordered = sorted(texts.items(), key=lambda item: item[0].encode())
        joined = "".join(f"{name}\0{text}\0" for name, text in ordered)
        assert hashlib.sha256(joined.encode()).hexdigest() == recorded
        arrays = {}
        for split in SPLITS:
            names = [name for name in file[split] if name != "views"]
            names += ["views/features"] if "views" in file[split] else []
            for name in names:
                values = list(file[split][name][:])
                if name == "sample_ids":
                    values = [value.rstrip(b"\0").decode() for value in values]
                arrays[f"{split}/{name}"] = values
        assert_is_golden({name: parse(text) for name, text in texts.items()}, arrays, version)


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def assert_is_golden(attributes, arrays, version):
    assert attributes["featurestore"] == {"format_version": version}
    assert attributes["class_names"] == ["cat", "犬"]
    assert attributes["note"] == "golden"
    assert len(arrays) == (13 if version == 2 else 12)
    if version == 2:
        views = np.array(arrays["train/views/features"])
        assert views.shape == (2, 70, 1, 2, 3)
        assert views[0, 66].tolist() == [[[166, 0, 166.5], [0, 166.25, 0]]]
        assert views[1, 69].tolist() == [[[0, 269.25, 0], [269, 0, 269.5]]]
    assert np.array(arrays["train/features"])[66].tolist() == [[[66, 0, 66.5], [0, 66.25, 0]]]
    assert [len(arrays[f"{split}/features"]) for split in SPLITS] == [70, 0, 1]
    assert arrays["train/labels"][:4] == [0, 1, 0, 1]
    assert arrays["train/sample_ids"][69] == "train/Bild 69 犬.jpg"
    assert arrays["train/sha256"][69].tobytes() == b"\x45" * 32
    assert arrays["validation/sample_ids"] == []
