"""`POST /v1/predict`: the classes of `fs predict`, by runs that come and go."""

import asyncio
import shutil

import jsonschema_rs
import numpy as np
import pytest
from serving_images import (
    ARROW,
    NPY,
    FakeEngine,
    array_of,
    cache_headers,
    files,
    fresh,
    make_cache,
    serving,
    table_of,
    tiny,
)

from featurestore.embedding.on_demand import OnDemandOptions
from featurestore.features import open_features
from featurestore.training.classify import classify_images
from featurestore.training.runs import load_run
from featurestore.training.settings import LogisticSettings
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import train

JSON = "application/json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, their features, and the runs first-a, first-b and second; only read."""
    root = tmp_path_factory.mktemp("predict-routes")
    make_cache(root)
    with open_features("photos", cache=root / "cache") as features:
        for name in ("first-a", "first-b"):
            run = train(features, NearestCentroidSettings(), cache=root / "cache")
            run.path.rename(run.path.with_name(name))
        run = train(features, LogisticSettings(), cache=root / "cache")
        run.path.rename(run.path.with_name("second"))
    return root


@pytest.fixture
def cache(made, tmp_path):
    """A copy of the cache, to be changed."""
    shutil.copytree(made / "cache", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def client(made):
    with serving(made / "cache", online_bytes=2**20) as client:
        yield client


def post(client, run, *, accept=JSON, **options):
    return client.post("/v1/predict", params={"run": run}, headers={"Accept": accept}, **options)


def expected_of(cache, run, tmp_path, contents):
    """What `fs predict` says of images, without the online cache."""
    paths = [tmp_path / f"image-{index}" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    options = OnDemandOptions(network=tiny, online_bytes=0)
    return list(
        classify_images(load_run(cache / "runs" / run), paths, cache=cache, options=options)
    )


@pytest.mark.parametrize("run", ["first-a", "second"])
def test_classes_and_probabilities_are_those_of_fs_predict(client, made, tmp_path, run):
    known = sorted((made / "photos" / "test").rglob("*.*"))
    contents = [*(path.read_bytes() for path in known), *(fresh(i, i % 2) for i in range(5))]
    contents.append(b"text")
    answer = post(client, run, files=files(*contents))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["run"], found["class_names"]) == (run, ["cats", "dogs"])
    expected = expected_of(made / "cache", run, tmp_path, contents)
    for each, other in zip(found["results"], expected, strict=True):
        assert each["sha256"] == other.sha256
        if other.reason is not None:
            assert each["reason"] == other.reason and "probabilities" not in each
            continue
        row = np.float32(each["probabilities"])
        assert row.tobytes() == other.probabilities.tobytes()
        assert each["predicted"] == found["class_names"][other.label]
    origins = [each.get("origin") for each in found["results"]]
    assert origins[: len(known)] == ["feature set"] * len(known)


def test_one_raw_image_in_each_format(client):
    content = fresh(50)
    first = post(client, "second", content=content)
    (result,) = first.json()["results"]
    assert result["name"] is None
    assert cache_headers(first) == ("miss", 0, 1)
    row = np.float32(result["probabilities"])
    array = post(client, "second", accept=NPY, content=content)
    assert cache_headers(array) == ("hit", 1, 0)
    np.testing.assert_array_equal(array_of(array), row[None])
    table, about = table_of(post(client, "second", accept=ARROW, content=content))
    assert about == {"run": "second", "class_names": ["cats", "dogs"], "shape": [2]}
    assert table["predicted"].to_pylist() == [result["predicted"]]
    np.testing.assert_array_equal(np.stack(table["probabilities"].to_numpy()), row[None])


def test_one_unreadable_image_leaves_the_others_their_classes(client):
    answer = post(client, "second", files=files(b"text", fresh(0), fresh(1, 1)))
    assert answer.status_code == 200
    text, *others = answer.json()["results"]
    assert text.keys() == {"name", "sha256", "reason"}
    assert all(each["predicted"] in ("cats", "dogs") for each in others)
    alone = post(client, "second", content=b"text")
    assert alone.status_code == 200 and alone.json()["results"][0]["reason"]
    assert post(client, "second", accept=NPY, content=b"text").status_code == 422


def test_a_run_is_meant_by_its_id_or_the_start_of_one(client):
    assert post(client, "sec", content=fresh(0)).json()["run"] == "second"
    assert post(client, "first-a", content=fresh(0)).json()["run"] == "first-a"
    several = post(client, "first", content=fresh(0))
    assert several.status_code == 422 and "first-b" in several.json()["detail"]
    assert post(client, "third", content=fresh(0)).status_code == 404
    for none in (post(client, "", content=b"x"), client.post("/v1/predict", content=b"x")):
        assert none.status_code == 422 and "run" in none.json()["detail"]


def test_a_removed_run_is_not_found_at_the_next_request(cache):
    with serving(cache) as client:
        assert post(client, "second", content=fresh(0)).status_code == 200
        shutil.rmtree(cache / "runs" / "second")
        gone = post(client, "second", content=fresh(0))
        assert gone.status_code == 404
        assert gone.headers["content-type"] == "application/problem+json"


def test_a_run_that_was_trained_meanwhile_is_found(cache):
    with serving(cache) as client:
        assert post(client, "third", content=fresh(0)).status_code == 404
        (cache / "runs" / "second").rename(cache / "runs" / "third")
        assert post(client, "third", content=fresh(0)).json()["run"] == "third"


def test_a_damaged_model_is_told_and_others_go_on(cache):
    model = load_run(cache / "runs" / "second").model_path
    model.write_bytes(b"damaged")
    with serving(cache) as client:
        answer = post(client, "second", content=fresh(0))
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "damaged" in answer.json()["detail"] and "Traceback" not in answer.text
        assert post(client, "first-a", content=fresh(0)).status_code == 200


def test_a_head_needs_no_network_for_what_is_known(cache, made):
    def none(recipe):
        raise AssertionError("a network was built")

    known = next((made / "photos" / "test").rglob("*.jpg")).read_bytes()
    with serving(cache, network=none) as client:
        assert post(client, "second", content=known).status_code == 200


def test_weights_may_be_where_the_set_of_comparison_says(cache):
    engine = FakeEngine()
    with serving(cache, engine=engine) as client:
        assert post(client, "second", content=fresh(0)).status_code == 200
    with open_features("photos", cache=cache) as features:
        assert engine.asked == [(features.recipe, 1, ("tiny",))]


def test_many_clients_at_once_get_what_each_gets_alone(client):
    contents = [fresh(index, index % 2) for index in range(60, 76)]
    alone = [post(client, "second", content=each).json()["results"] for each in contents]

    async def ask(content):
        return await asyncio.to_thread(post, client, "second", content=content)

    async def main():
        return await asyncio.gather(*map(ask, contents))

    together = [answer.json()["results"] for answer in asyncio.run(main())]
    for one, other in zip(alone, together, strict=True):
        assert one[0]["probabilities"] == other[0]["probabilities"]


def test_answers_are_as_the_description_says(client):
    operation = client.app.openapi()["paths"]["/v1/predict"]["post"]
    schema = operation["responses"]["200"]["content"][JSON]["schema"]
    found = post(client, "second", files=files(fresh(0), b"text")).json()
    assert jsonschema_rs.is_valid(schema, found)
    del found["results"][0]["predicted"]
    assert not jsonschema_rs.is_valid(schema, found)
