"""`POST /v1/embed`: formats, headers and refusals, and features that are those of `fs embed`."""

import asyncio
import http.client
import json
import time
from types import SimpleNamespace

import jsonschema_rs
import numpy as np
import pytest
from serving_images import (
    ARROW,
    NPY,
    SHAPE,
    FakeEngine,
    array_of,
    cache_headers,
    features_of,
    files,
    fresh,
    make_cache,
    serving,
    table_of,
    tiny,
)

from featurestore.errors import InvalidInput, NotFound
from featurestore.features import open_features
from featurestore.service.app import create_app
from featurestore.service.asked import Asked
from featurestore.service.contract import Answer, Busy, Limits, ServiceSettings, TooLarge
from featurestore.service.formats import Result, Results, accepted, respond
from featurestore.testing.images import broken_images
from featurestore.testing.serving import serve_app

JSON = "application/json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs and a cache with their features; the tests only read them."""
    root = tmp_path_factory.mktemp("embed-routes")
    make_cache(root)
    return root


@pytest.fixture(scope="module")
def features(made):
    with open_features("photos", cache=made / "cache") as features:
        yield features


@pytest.fixture(scope="module")
def name(features):
    return features.recipe.name


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def client(made, engine):
    with serving(made / "cache", engine=engine) as client:
        yield client


def post(client, name, *, accept=JSON, **options):
    headers = {"Accept": accept, **options.pop("headers", {})}
    return client.post("/v1/embed", params={"recipe": name}, headers=headers, **options)


def test_one_raw_image_as_json(client, features, engine):
    content = fresh(0)
    answer = post(client, features.recipe.name, content=content)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    found = answer.json()
    (result,) = found.pop("results")
    recipe = features.recipe
    assert found == {
        "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint},
        "feature_shape": list(SHAPE),
        "dtype": "float16",
    }
    assert np.float16(result.pop("features")).tobytes() == features_of(content).tobytes()
    sha256 = result.pop("sha256")
    assert len(sha256) == 64 and int(sha256, 16)
    assert result == {"name": None, "origin": "computed"}
    assert engine.asked == [(recipe, 1, ())]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("accept", [JSON, NPY, ARROW])
def test_numbers_read_back_exactly(dtype, accept):
    limits = np.finfo(dtype)
    odd = [0, -0.0, 1 / 3, 0.1, limits.max, limits.min, limits.tiny, limits.smallest_subnormal]
    more = np.random.default_rng(0).normal(size=16) * 100
    rows = np.array([[odd], [more[:8]], [more[8:]]], dtype)
    found = Results(
        {"dtype": dtype},
        "features",
        (1, 8),
        dtype,
        [Result(None, Answer("0" * 64, row, None, "computed"), row) for row in rows],
    )
    answer = SimpleNamespace(content=asyncio.run(respond(found, accept)).body)
    if accept == JSON:
        results = json.loads(answer.content)["results"]
        array = np.array([each["features"] for each in results], dtype).reshape(rows.shape)
    elif accept == NPY:
        array = array_of(answer)
    else:
        table, about = table_of(answer)
        assert about == {"dtype": dtype, "shape": [1, 8]}
        array = np.stack(table["features"].to_numpy()).reshape(-1, *about["shape"])
    assert array.dtype == dtype
    assert array.tobytes() == rows.tobytes()


def test_a_form_gives_each_file_in_order_with_its_name(client, name):
    contents = [fresh(0), b"text", fresh(1)]
    names = ["../a.jpg", "<b>'.jpg", "ü\u202e.jpg"]
    answer = post(client, name, files=files(*contents, names=names))
    results = answer.json()["results"]
    assert [each["name"] for each in results] == ["../a.jpg", "<b>'.jpg", "ü\u202e.jpg"]
    assert results[1].keys() == {"name", "sha256", "reason"}
    assert results[1]["reason"] == "not an image"
    for index in (0, 2):
        row = np.float16(results[index]["features"]).reshape(SHAPE)
        np.testing.assert_array_equal(row, features_of(contents[index]))


def test_an_array_is_given_only_where_every_image_is_readable(client, name):
    contents = [fresh(0), *(b"text%d" % index for index in range(10))]
    answer = post(client, name, accept=NPY, files=files(*contents))
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert "10 of 11 images" in detail and "'1.jpg': not an image" in detail and "…" in detail
    assert "'0.jpg'" not in detail
    assert "application/json" in answer.json()["next_step"]
    raw = post(client, name, accept=NPY, content=b"text")
    assert raw.status_code == 422 and "1 of 1 images" in raw.json()["detail"]


def test_arrow_has_a_row_for_each_image_with_nulls_where_there_is_nothing(client, name):
    answer = post(client, name, accept=ARROW, files=files(b"text", fresh(0)))
    assert answer.headers["content-type"] == ARROW
    table, about = table_of(answer)
    assert about["recipe"]["name"] == name
    assert table.column_names == ["name", "sha256", "origin", "reason", "features"]
    assert table["name"].to_pylist() == ["0.jpg", "1.jpg"]
    assert table["origin"].to_pylist() == ["computed", "computed"]
    assert table["reason"].to_pylist() == ["not an image", None]
    assert table["features"][0].as_py() is None
    only_text = table_of(post(client, name, accept=ARROW, content=b"text"))[0]
    assert only_text["features"].to_pylist() == [None]


def test_headers_count_hits_and_misses(client, name):
    assert cache_headers(post(client, name, content=fresh(0))) == ("miss", 0, 1)
    for accept in (JSON, NPY, ARROW):
        answer = post(client, name, accept=accept, content=fresh(0))
        assert cache_headers(answer) == ("hit", 1, 0)
    answer = post(client, name, files=files(fresh(0), fresh(1), b"text"))
    assert cache_headers(answer) == ("mixed", 1, 2)


@pytest.mark.parametrize("accept", [JSON, NPY, ARROW])
def test_large_answers_are_whole_too(client, name, accept, monkeypatch):
    monkeypatch.setattr("featurestore.service.formats._WHOLE_BYTES", 1000)
    contents = [fresh(index) for index in range(40)]
    answer = post(client, name, accept=accept, files=files(*contents))
    expected = np.stack([features_of(each) for each in contents])
    if accept == JSON:
        found = np.float16([each["features"] for each in answer.json()["results"]])
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    elif accept == NPY:
        assert int(answer.headers["content-length"]) == len(answer.content)
        np.testing.assert_array_equal(array_of(answer), expected)
    else:
        assert len(table_of(answer)[0]) == 40


def test_a_large_answer_without_an_array_is_still_a_refusal(client, name, monkeypatch):
    monkeypatch.setattr("featurestore.service.formats._WHOLE_BYTES", 10)
    answer = post(client, name, accept=NPY, files=files(fresh(0), b"text"))
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/x-npy", NPY),
        ("Application/X-NPY", NPY),
        ("application/x-npy, application/json", JSON),
        ("application/x-npy, application/json;q=0.5", NPY),
        ("application/json; q=0.1, */*; q=0.5", NPY),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        (f"{ARROW};q=0.9, application/x-npy;q=0.8", ARROW),
        ("application/json;q=0, */*", NPY),
        ("application/json;q=nonsense, application/x-npy;q=0.1", NPY),
        ("application/json;charset=utf-8", JSON),
    ],
)
def test_the_format_is_the_one_that_the_client_likes_best(header, expected):
    assert accepted(header) == expected


@pytest.mark.parametrize(
    "header", ["image/png", "text/*", "*/*;q=0", "json", ";;,,;q=", "*/*;q=nan"]
)
def test_a_format_that_there_is_not_is_406(client, name, header, engine):
    answer = post(client, name, accept=header, content=fresh(0))
    assert answer.status_code == 406
    assert NPY in answer.json()["detail"]
    assert engine.asked == []


@pytest.mark.parametrize("wanted", ["photos/{name}", "{name}", "{fingerprint}", "photos"])
def test_a_recipe_is_meant_by_name_set_or_fingerprint(client, features, wanted):
    wanted = wanted.format(name=features.recipe.name, fingerprint=features.recipe.fingerprint[:8])
    answer = post(client, wanted, content=fresh(0))
    assert answer.json()["recipe"]["name"] == features.recipe.name


def test_no_recipe_is_422_and_an_unknown_one_404(client, engine):
    for answer in (client.post("/v1/embed", content=b"x"), post(client, "", content=b"x")):
        assert answer.status_code == 422
        assert "recipe" in answer.json()["detail"]
    assert post(client, "no-such-recipe", content=b"x").status_code == 404
    assert engine.asked == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Busy("full", retry_after_s=7), 429),
        (TooLarge("an image has too many pixels"), 413),
        (NotFound("no weights"), 404),
        (InvalidInput("odd"), 422),
    ],
)
def test_errors_of_the_engine_are_problems(client, name, engine, error, status):
    engine.error = error
    answer = post(client, name, content=fresh(0))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == error.message
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


def test_limits_and_malformed_bodies_are_problems(made, name, engine):
    limits = Limits(body_bytes=5000, images=2)
    with serving(made / "cache", engine=engine, limits=limits) as client:
        answers = {
            413: [
                post(client, name, content=b"a" * 5001),
                post(client, name, files=files(b"a", b"b", b"c")),
            ],
            400: [
                post(client, name, headers={"Content-Type": "multipart/form-data"}, content=b"x")
            ],
            415: [post(client, name, headers={"Content-Encoding": "gzip"}, content=b"x")],
            422: [post(client, name), post(client, name, files=[("note", (None, b"text"))])],
        }
        for status, refused in answers.items():
            for answer in refused:
                assert answer.status_code == status
                assert answer.headers["content-type"] == "application/problem+json"
        assert engine.asked == []
        assert client.app.state.service.uploads.held_bytes == 0


def test_answers_are_as_the_description_says(client, name):
    description = client.app.openapi()
    operation = description["paths"]["/v1/embed"]["post"]
    schema = operation["responses"]["200"]["content"][JSON]["schema"]
    answer = post(client, name, files=files(fresh(0), b"text"))
    assert jsonschema_rs.is_valid(schema, answer.json())
    assert not jsonschema_rs.is_valid(schema, {**answer.json(), "results": []})
    assert {"400", "404", "406", "408", "413", "415", "422", "429"} <= operation["responses"].keys()
    assert "multipart/form-data" in operation["requestBody"]["content"]


def test_what_was_found_for_a_name_is_asked_again_after_a_moment():
    asked, now = [], [0.0]

    def find(wanted):
        asked.append(wanted)
        if wanted == "none":
            raise NotFound("none")
        return wanted.upper()

    async def main():
        names = Asked(find, clock=lambda: now[0])
        assert [await names.find("a") for _ in range(3)] == ["A"] * 3
        for _ in range(2):
            with pytest.raises(NotFound):
                await names.find("none")
        now[0] = 0.3
        assert await names.find("a") == "A"
        for index in range(1000):
            await names.find(f"many{index}")
        assert len(names._found) <= 256

    asyncio.run(main())
    assert asked[:4] == ["a", "none", "none", "a"]


def test_a_client_that_leaves_lets_go_of_its_work(made, name, engine):
    app = create_app(ServiceSettings(cache=made / "cache", network=tiny))
    with serve_app(app) as url:
        app.state.service.embedder = engine
        engine.wait = 30.0
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("POST", f"/v1/embed?recipe={name}", body=fresh(0))
        deadline = time.monotonic() + 10
        while not engine.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        connection.close()
        while not engine.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.cancelled == 1
        while app.state.service.uploads.held_bytes and time.monotonic() < deadline:
            time.sleep(0.01)
        assert app.state.service.uploads.held_bytes == 0
        engine.wait = None
        connection.request("POST", f"/v1/embed?recipe={name}", body=fresh(0))
        assert json.loads(connection.getresponse().read())["results"][0]["features"]
        connection.close()


# With the engine that embeds: what is known, what is new, what is no image.


@pytest.fixture(scope="module")
def real(made):
    with serving(made / "cache", online_bytes=2**20) as client:
        yield client


def test_known_images_have_the_features_of_the_set(real, made, features, name):
    for split in features.splits:
        ids = list(features[split].sample_ids)
        contents = [(made / "photos" / sample_id).read_bytes() for sample_id in ids]
        answer = post(real, name, accept=NPY, files=files(*contents))
        assert cache_headers(answer) == ("hit", len(ids), 0)
        np.testing.assert_array_equal(array_of(answer), features[split].load()[0])


def test_new_images_have_the_features_that_fs_embed_gives(real, tmp_path, name):
    folder = tmp_path / "photos" / "train" / "cats"
    folder.mkdir(parents=True)
    contents = [fresh(index) for index in range(20, 31)]
    embedder = make_cache(tmp_path)
    for index, content in enumerate(contents):
        (folder / f"z{index:02}.jpg").write_bytes(content)
    embedder()
    with open_features("photos", cache=tmp_path / "cache") as expected:
        rows = dict(zip(expected["train"].sample_ids, expected["train"].load()[0], strict=True))
    first = post(real, name, accept=NPY, files=files(*contents))
    assert cache_headers(first) == ("miss", 0, 11)
    np.testing.assert_array_equal(
        array_of(first), np.stack([rows[f"train/cats/z{i:02}.jpg"] for i in range(11)])
    )
    again = post(real, name, accept=NPY, files=files(*contents))
    assert cache_headers(again) == ("hit", 11, 0)
    assert again.content == first.content


def test_broken_files_have_reasons_and_others_their_features(real, name):
    broken = {
        name: content for name, content in broken_images().items() if not name.startswith("bomb")
    }
    contents = [*broken.values(), fresh(40)]
    answer = post(real, name, files=files(*contents, names=[*broken, "good.jpg"]))
    assert answer.status_code == 200
    *refused, good = answer.json()["results"]
    assert all(each["reason"] and "features" not in each for each in refused)
    assert len(good["features"]) == 48


@pytest.mark.parametrize("bomb", ["bomb.png", "bomb.gif"])
def test_a_bomb_is_too_large(real, name, bomb):
    answer = post(real, name, content=broken_images()[bomb])
    assert answer.status_code == 413
    assert "pixels" in answer.json()["detail"]
