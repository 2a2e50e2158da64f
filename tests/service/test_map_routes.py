from __future__ import annotations

import dataclasses
import io
import json
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from threadpoolctl import threadpool_limits

from featurestore.catalogue import Catalogue
from featurestore.features import open_record
from featurestore.recipe import Recipe
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.map_files import map_folder
from featurestore.service.map_worker import make_map
from featurestore.service.projection import Layout, unit_vectors
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.training.runs import write_run
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import train

SPLITS = {"train": 6, "test": 4}
DTYPES = {"uint16": "<u2", "uint32": "<u4", "float32": "<f4"}


def tiny(recipe: Recipe) -> TinyNetwork:
    return TinyNetwork(weights="one", dtype=recipe.dtype, batch_size=8)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    root = tmp_path_factory.mktemp("map routes")
    photos = root / "photos"
    write_image_folder(photos, splits=SPLITS)
    twin = photos / "test" / "cats" / "twin.jpg"
    twin.write_bytes((photos / "train" / "cats" / "cats.0.jpg").read_bytes())
    TinyEmbedder(photos, root / "cache")()
    record = Catalogue(root / "cache").current()[0]
    folder = map_folder(root / "cache", record.fingerprint)
    with threadpool_limits(1):  # as in the process that makes maps
        make_map(record, folder, layout=Layout(), tell=lambda *_: None, written=str)
    with TestClient(
        create_app(ServiceSettings(cache=root / "cache", network=tiny, workers=1))
    ) as client:
        yield client, record, f"/v1/feature-sets/{record.name}", photos


def columns(content):
    assert content[:8] == b"FSCOLUMN"
    length = int.from_bytes(content[8:12], "little")
    assert (12 + length) % 8 == 4 or (12 + length) % 8 == 0
    about = json.loads(content[12 : 12 + length])
    return about, {
        each["name"]: np.frombuffer(
            content, DTYPES[each["dtype"]], about["rows"], 12 + length + each["start"]
        )
        for each in about["columns"]
    }


class TestMap:
    def test_tells_what_its_points_mean(self, ready):
        client, record, address, _ = ready
        state = client.get(f"{address}/map").json()
        assert state["feature_set"] == record.name
        assert state["fingerprint"] == record.fingerprint
        assert state["points"] == "layout"
        assert state["rows"] == 21
        assert state["class_names"] == ["cats", "dogs"]
        assert state["splits"] == [
            {"name": "train", "start": 0, "rows": 12},
            {"name": "test", "start": 12, "rows": 9},
        ]
        assert state["runs"] == []

    def test_points_are_those_of_the_rows(self, ready):
        client, record, address, _ = ready
        answer = client.get(f"{address}/map/points")
        about, found = columns(answer.content)
        assert about["fingerprint"] == record.fingerprint
        with open_record(record) as features:
            labels = np.concatenate([features[name].labels for name in features.splits])
        np.testing.assert_array_equal(found["label"], labels)
        assert int(max(np.ptp(found["x"]), np.ptp(found["y"]))) == 65535
        # The same bytes have the same features, so they lie in one place, or next to it.
        twins = [0, 12 + names(client, address, range(12, 21)).index("test/cats/twin.jpg")]
        assert np.hypot(*(np.diff(found[axis][twins].astype(float)) for axis in "xy")) < 8000

    def test_points_are_sent_once(self, ready):
        client, _, address, _ = ready
        first = client.get(f"{address}/map/points")
        again = client.get(
            f"{address}/map/points", headers={"If-None-Match": first.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")

    def test_of_another_version_is_not_this_one(self, ready):
        client, record, address, _ = ready
        for path in ("map", "map/points", "map/names?positions=1", "neighbours?split=test&row=0"):
            join = "&" if "?" in path else "?"
            assert client.get(f"{address}/{path}{join}fingerprint={'0' * 16}").status_code == 404
            pinned = client.get(f"{address}/{path}{join}fingerprint={record.fingerprint[:16]}")
            assert pinned.status_code == 200

    @pytest.mark.parametrize("positions", ["", "a", "1,", "-1", "1.5", "1" * 13, "1,1" * 300])
    def test_refuses_positions_that_are_none(self, ready, positions):
        client, _, address, _ = ready
        answer = client.get(f"{address}/map/names", params={"positions": positions})
        assert answer.status_code == 422

    def test_names_rows_in_the_order_asked_for(self, ready):
        client, record, address, _ = ready
        with open_record(record) as features:
            ids = [str(name) for split in features.splits for name in features[split].sample_ids]
        assert names(client, address, [20, 0, 13]) == [ids[20], ids[0], ids[13]]
        answer = client.get(f"{address}/map/names?positions=0,21")
        assert answer.status_code == 404
        assert "21" in answer.json()["detail"]

    def test_of_a_set_that_is_not_there_is_404(self, ready):
        client, *_ = ready
        for path in ("map", "map/points", "map/names?positions=0", "neighbours?split=test&row=0"):
            assert client.get(f"/v1/feature-sets/no/such/{path}").status_code == 404

    def test_has_no_answers_of_a_run_that_is_not_there(self, ready):
        client, _, address, _ = ready
        assert client.get(f"{address}/map/answers?run=none").status_code == 404


def unit(record):
    """Return the vectors of all rows as they are kept, at length 1 in float64."""
    with open_record(record) as features:
        kept = [unit_vectors(features[name].load()[0]) for name in features.splits]
    vectors = np.concatenate(kept).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class _Model:
    suffix = ".skops"

    def save(self, path):
        path.write_bytes(b"no model")


def names(client, address, positions):
    text = ",".join(map(str, positions))
    return client.get(f"{address}/map/names?positions={text}").json()["names"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A set with a run on it, one that names other images, and one on another set."""
    root = tmp_path_factory.mktemp("runs")
    made = []
    for name in ("photos", "others"):
        write_image_folder(root / name, splits=SPLITS, seed=len(made))
        TinyEmbedder(root / name, root / "cache")()
        record = Catalogue(root / "cache").find(name)
        with open_record(record) as features:
            made.append(train(features, NearestCentroidSettings(), cache=root / "cache"))
    own, other = made
    path = own.path.with_name("swapped")
    predictions = own.predictions("test")
    turned = dataclasses.replace(predictions, sample_ids=predictions.sample_ids[::-1])
    swapped = write_run(
        dataclasses.replace(own, id=path.name, path=path), _Model(), {"test": turned}
    )
    with TestClient(create_app(ServiceSettings(cache=root / "cache"))) as client:
        yield client, f"/v1/feature-sets/{own.features.name}", own, (swapped, other)


class TestAnswers:
    def test_are_those_of_the_run(self, runs):
        client, address, own, _ = runs
        about, found = columns(client.get(f"{address}/map/answers?run={own.id}").content)
        assert about["run"] == own.id
        expected = np.concatenate(
            [own.predictions(split).probabilities for split in ("train", "test")]
        )
        np.testing.assert_array_equal(found["predicted"], expected.argmax(axis=1))
        np.testing.assert_array_equal(found["probability"], expected.max(axis=1))

    def test_are_missing_for_a_split_without_them(self, runs):
        client, address, own, _ = runs
        path = own.path.with_name("of-test-alone")
        run = dataclasses.replace(own, id=path.name, path=path)
        write_run(run, _Model(), {"test": own.predictions("test")})
        time.sleep(0.3)  # the catalogue looks again only so often
        _, found = columns(client.get(f"{address}/map/answers?run={run.id}").content)
        assert (found["predicted"] == 0xFFFF).tolist() == [True] * 12 + [False] * 8
        assert np.isnan(found["probability"]).tolist() == [True] * 12 + [False] * 8

    def test_of_other_images_are_refused(self, runs):
        client, address, own, others = runs
        for run in others:
            answer = client.get(f"{address}/map/answers?run={run.id}")
            assert answer.status_code == 409
            assert run.id in answer.json()["detail"]
        listed = {run["id"]: run for run in client.get(f"{address}/map").json()["runs"]}
        assert listed[own.id]["of_this_set"]
        assert listed[own.id]["accuracy"]["test"] == own.metrics["test"]["accuracy"]
        assert others[1].id not in listed


class TestNeighbours:
    def test_of_a_row_are_those_of_brute_force(self, ready):
        client, record, address, _ = ready
        vectors = unit(record)
        for position in (3, 15):
            split, row = ("train", position) if position < 12 else ("test", position - 12)
            found = client.get(f"{address}/neighbours?split={split}&row={row}&k=5").json()
            assert (found["position"], found["split"], found["row"]) == (position, split, row)
            distances = 1 - vectors @ vectors[position]
            distances[position] = np.inf
            expected = np.argsort(distances, kind="stable")[:5]
            assert [each["position"] for each in found["neighbours"]] == expected.tolist()
            np.testing.assert_allclose(
                [each["distance"] for each in found["neighbours"]], distances[expected], atol=1e-9
            )
            for each in found["neighbours"]:
                at = each["row"] + (0 if each["split"] == "train" else 12)
                assert at == each["position"]
                assert each["class_name"] in each["sample_id"]

    def test_the_same_bytes_in_another_split_are_at_distance_0(self, ready):
        client, _, address, _ = ready
        found = client.get(f"{address}/neighbours?split=train&row=0&k=2").json()
        first = found["neighbours"][0]
        assert first["sample_id"] == "test/cats/twin.jpg"
        assert (first["distance"], first["same_bytes"]) == (0.0, True)
        assert not found["neighbours"][1]["same_bytes"]

    def test_of_an_image_of_the_set_begin_with_itself(self, ready):
        client, _, address, photos = ready
        content = (photos / "train" / "dogs" / "dogs.1.jpg").read_bytes()
        found = client.post(f"{address}/neighbours?k=3", content=content).json()
        assert found["origin"] == "feature set"
        first = found["neighbours"][0]
        assert first["sample_id"] == "train/dogs/dogs.1.jpg"
        assert (first["distance"], first["same_bytes"]) == (0.0, True)

    def test_of_a_new_image_are_those_of_its_features(self, ready):
        client, record, address, _ = ready
        content = encode(photograph(1, index=900))
        files = {"image": ("<b>.jpg", content)}
        found = client.post(f"{address}/neighbours?k=5", files=files).json()
        assert found["origin"] == "computed"
        assert found["position"] is None
        assert all(-1 <= each <= 1 for each in found["place"])
        assert [each["distance"] for each in found["neighbours"]] == sorted(
            each["distance"] for each in found["neighbours"]
        )
        features = client.post(
            f"/v1/embed?recipe={record.recipe.name}",
            content=content,
            headers={"Accept": "application/x-npy"},
        ).content
        query = unit_vectors(np.load(io.BytesIO(features)))[0].astype(np.float64)
        vectors = unit(record)
        expected = np.sort(1 - vectors @ query / np.linalg.norm(query))[:5]
        np.testing.assert_allclose(
            [each["distance"] for each in found["neighbours"]], expected, atol=1e-9
        )
        again = client.post(f"{address}/neighbours?k=5", content=content).json()
        assert again["origin"] == "online cache"
        assert again["neighbours"] == found["neighbours"]

    def test_of_what_is_no_image_are_refused_with_the_reason(self, ready):
        client, _, address, _ = ready
        for content in (b"no image", encode(photograph(0))[:200]):
            answer = client.post(f"{address}/neighbours", content=content)
            assert answer.status_code == 422
            assert "cannot be read" in answer.json()["detail"]
        assert client.post(f"{address}/neighbours", content=b"").status_code == 422
        two = [("a", ("a.jpg", b"1")), ("b", ("b.jpg", b"2"))]
        assert client.post(f"{address}/neighbours", files=two).status_code == 422

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("split=test&row=9", 404),
            ("split=none&row=0", 404),
            ("split=test&row=-1", 422),
            ("split=test&row=0&k=0", 422),
            ("split=test&row=0&k=201", 422),
            ("split=test&row=99999999999999999999", 422),
            ("row=0", 422),
        ],
    )
    def test_of_a_row_that_is_not_there(self, ready, query, status):
        client, _, address, _ = ready
        assert client.get(f"{address}/neighbours?{query}").status_code == status

    def test_are_no_more_than_there_are(self, ready):
        client, _, address, _ = ready
        found = client.get(f"{address}/neighbours?split=test&row=0&k=200").json()
        assert len(found["neighbours"]) == 20
