"""Feature sets and runs as JSON."""

import dataclasses
import json
import urllib.request
from urllib.parse import quote, unquote

import pytest
from committed_stores import commit_rows, few_rows, write_record
from fastapi.testclient import TestClient
from made_runs_on import run_on

from featurestore.augmentation import Augmentation
from featurestore.catalogue import Quarantined, record_path
from featurestore.recipe import Views
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.testing.rows import RECIPE
from featurestore.testing.serving import serve
from featurestore.training.runs import RECORD_NAME

VIEWED = dataclasses.replace(RECIPE, augmentation=Views(augmentation=Augmentation(), count=2))
HOSTILE = "<script>alert(1)<_script> & 'Kätzchen' 图#1?a=b%41"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def client(cache):
    settings = ServiceSettings(cache=cache)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def names(answer):
    assert answer.status_code == 200, answer.text
    return [entry["name"] for entry in answer.json()["feature_sets"]]


def test_the_newest_version_of_each_set_is_listed_once_per_format(client, cache):
    commit_rows(cache, few_rows(), manifest="a", sequence=1)
    newest = commit_rows(cache, few_rows(), manifest="b", sequence=2)
    commit_rows(cache, few_rows(), manifest="b", sequence=3, store_format="hdf5")
    other = commit_rows(cache, few_rows(), dataset="cars", sequence=4)
    answer = client.get("/v1/feature-sets")
    assert names(answer) == [other.name, newest.name, newest.name]
    listed = answer.json()["feature_sets"]
    assert [entry["store_format"] for entry in listed] == ["zarr", "hdf5", "zarr"]
    assert {entry["fingerprint"] for entry in listed[1:]} == {newest.fingerprint}
    assert answer.json()["total"] == 3
    assert answer.json()["problems"] == []


def test_a_summary_says_what_the_record_says(client, cache):
    record = commit_rows(cache, few_rows(), recipe=VIEWED)
    (entry,) = client.get("/v1/feature-sets").json()["feature_sets"]
    assert entry == {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "store_format": "zarr",
        "rows": {"train": 100, "test": 50},
        "feature_shape": [2, 2, 8],
        "dtype": "float16",
        "class_names": ["cats", "dogs"],
        "recipe": VIEWED.to_dict(),
        "recipe_name": VIEWED.name,
        "recipe_fingerprint": VIEWED.fingerprint,
        "views": 2,
        "quarantined": 0,
        "stored_bytes": record.stored_bytes,
        "committed_at": record.committed_at,
        "checksums_sha256": record.checksums_sha256,
        "store": f"/v1/feature-sets/{record.name}/store/{record.store.name}",
    }


def test_long_lists_come_in_pages(client, cache):
    for dataset in "abcde":
        commit_rows(cache, few_rows(4), dataset=dataset)
    every = names(client.get("/v1/feature-sets"))
    assert len(every) == 5
    for query, expected in (
        ("limit=2", every[:2]),
        ("offset=2&limit=2", every[2:4]),
        ("offset=4&limit=2", every[4:]),
        ("offset=3", every[3:]),
        ("offset=99", []),
        ("limit=1000", every),
    ):
        answer = client.get(f"/v1/feature-sets?{query}")
        assert names(answer) == expected, query
        assert answer.json()["total"] == 5
    for query in ("limit=0", "limit=-1", "offset=-1", "limit=many", f"limit={'9' * 5000}"):
        answer = client.get(f"/v1/feature-sets?{query}")
        assert answer.status_code == 422, query
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.get(f"/v1/feature-sets?offset={'9' * 30}").status_code in (200, 422)


def test_one_set_is_meant_by_name_by_start_or_by_fingerprint(client, cache):
    old = commit_rows(cache, few_rows(), manifest="a", sequence=1)
    new = commit_rows(cache, few_rows(), manifest="b", sequence=2)
    commit_rows(cache, few_rows(), dataset="phones", sequence=3)
    for wanted, expected in (
        (new.name, new),
        (new.name.replace("/", "%2F"), new),
        ("photos", new),
        (f"photos/{RECIPE.name[:8]}", new),
        (old.fingerprint[:8], old),
        (new.fingerprint, new),
    ):
        answer = client.get(f"/v1/feature-sets/{wanted}")
        assert answer.status_code == 200, wanted
        assert answer.json()["fingerprint"] == expected.fingerprint
    answer = client.get("/v1/feature-sets/ph")
    assert answer.status_code == 422
    assert "2 feature sets" in answer.json()["detail"]
    for wanted in ("nothing", "photos/nothing", "a/b", "%00", "..%2f..", "%2e%2e", "x" * 3000):
        answer = client.get(f"/v1/feature-sets/{wanted}")
        assert answer.status_code == 404, wanted
        assert answer.headers["content-type"] == "application/problem+json"


def test_one_set_is_told_whole(client, cache):
    old = commit_rows(cache, few_rows(), manifest="a", sequence=1)
    record = commit_rows(cache, few_rows(), manifest="b", sequence=2)
    bad = (Quarantined("train/cats/bad.jpg", None, "cut off"),)
    write_record(record, quarantine=bad)
    found = client.get(f"/v1/feature-sets/{record.name}").json()
    assert found["quarantine"] == [
        {"sample_id": "train/cats/bad.jpg", "sha256": None, "reason": "cut off"}
    ]
    assert found["quarantined"] == 1
    assert found["provenance"] == {"source": "made up"}
    assert found["content_sha256"] == dict(record.content_sha256)
    assert found["manifest_fingerprint"] == record.manifest_fingerprint
    assert found["sequence"] == 2
    assert [version["fingerprint"] for version in found["versions"]] == [
        record.fingerprint,
        old.fingerprint,
    ]
    for version in found["versions"]:
        assert client.get(f"{version['store']}/zarr.json").status_code == 200


def test_names_are_anybodys(cache):
    record = commit_rows(cache, few_rows(), dataset=HOSTILE)
    write_record(record, class_names=("</script>", "\u202e\x1b[31m"))
    # The test client takes escapes out of a path twice.
    with serve(ServiceSettings(cache=cache)) as url:

        def get_json(path):
            with urllib.request.urlopen(url + path) as answer:
                assert answer.headers["content-type"] == "application/json"
                return json.loads(answer.read())

        (entry,) = get_json("/v1/feature-sets")["feature_sets"]
        assert entry["name"] == record.name
        assert entry["class_names"] == ["</script>", "\u202e\x1b[31m"]
        assert unquote(entry["store"]).startswith(f"/v1/feature-sets/{record.name}/")
        assert get_json(f"{entry['store']}/zarr.json")["node_type"] == "group"
        assert get_json(f"{entry['store']}.json")["name"] == record.name
        found = get_json(f"/v1/feature-sets/{quote(record.name)}")
        assert found["fingerprint"] == record.fingerprint


def test_a_record_that_cannot_be_read_is_told_and_hides_none(client, cache):
    whole = commit_rows(cache, few_rows())
    damaged = commit_rows(cache, few_rows(), dataset="damaged")
    record_path(damaged.store).write_bytes(b"{")
    answer = client.get("/v1/feature-sets")
    assert names(answer) == [whole.name]
    (problem,) = answer.json()["problems"]
    assert damaged.store.name in problem["detail"]
    # Neither where it lies, nor what only who sits there can do, nor what Python says.
    assert str(cache) not in answer.text and "Error" not in problem["detail"]
    assert problem["next_step"] is None
    assert client.get("/v1/feature-sets/photos").status_code == 200


def test_runs_are_listed_newest_first(client, cache):
    record = commit_rows(cache, few_rows())
    other = commit_rows(cache, few_rows(), dataset="cars", manifest="b", sequence=2)
    runs = [run_on(each, cache, seed=seed) for seed, each in enumerate((record, other, record))]
    answer = client.get("/v1/runs").json()
    assert [entry["id"] for entry in answer["runs"]] == [run.id for run in runs[::-1]]
    assert (answer["total"], answer["problems"]) == (3, [])
    entry = answer["runs"][-1]
    assert entry["settings"] == runs[0].settings.to_dict()
    assert entry["changed_settings"] == {"c": 0.5}
    assert entry["metrics"]["test"] == {"accuracy": 0.75, "log_loss": 0.5, "roc_auc": None}
    assert entry["metrics"]["validation"] is None
    assert (entry["path_taken"], entry["head"], entry["seed"]) == ("cached", "logistic", 0)
    assert (entry["feature_set"], entry["fingerprint"]) == (record.name, record.fingerprint)
    assert entry["comparable"] == record.fingerprint
    assert entry["class_names"] == ["cats", "dogs"]

    def ids(query):
        return [entry["id"] for entry in client.get(f"/v1/runs?{query}").json()["runs"]]

    newest_first = [run.id for run in runs[::-1]]
    assert ids("limit=1") == newest_first[:1]
    assert ids("limit=1&offset=2") == newest_first[2:]
    assert ids("on=photos") == [newest_first[0], newest_first[2]]
    assert ids(f"on={other.fingerprint[:8]}") == [newest_first[1]]
    assert ids("head=logistic") == newest_first
    assert ids("head=dense") == []


def test_one_run_is_told_whole_with_its_curves(client, cache):
    run = run_on(commit_rows(cache, few_rows()), cache)
    found = client.get(f"/v1/runs/{run.id}").json()
    assert found == json.loads((run.path / RECORD_NAME).read_bytes())
    assert found["history"] == {"train_loss": [0.5, 0.25], "validation_loss": [0.75, 0.5]}
    assert client.get(f"/v1/runs/{run.id[:-2]}").json()["id"] == run.id
    for wanted in ("nothing", "%00", "..%2f", "%2e%2e"):
        answer = client.get(f"/v1/runs/{wanted}")
        assert answer.status_code == 404, wanted
        assert answer.headers["content-type"] == "application/problem+json"


def test_head_of_a_runs_file_knows_no_range(client, cache):
    run = run_on(commit_rows(cache, few_rows()), cache)
    path, ranged = f"/v1/runs/{run.id}/files/run.json", {"Range": "bytes=0-3"}
    assert client.get(path, headers=ranged).status_code == 206
    answer = client.head(path, headers=ranged)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(client.get(path).content)


def test_a_start_of_several_runs_means_none(client, cache):
    record = commit_rows(cache, few_rows())
    run_on(record, cache)
    run_on(record, cache)
    answer = client.get("/v1/runs/logistic")
    assert answer.status_code == 422
    assert "2 runs" in answer.json()["detail"]


def test_a_run_that_cannot_be_read_is_told_and_hides_none(client, cache):
    record = commit_rows(cache, few_rows())
    whole, damaged = run_on(record, cache), run_on(record, cache)
    (damaged.path / RECORD_NAME).write_bytes(b"{")
    answer = client.get("/v1/runs").json()
    assert [entry["id"] for entry in answer["runs"]] == [whole.id]
    assert damaged.id in answer["problems"][0]["detail"]
    assert client.get(f"/v1/runs/{whole.id}").status_code == 200


def test_the_description_says_what_is_in_the_answers(client):
    found = client.get("/openapi.json").json()
    schemas = found["components"]["schemas"]
    assert {"name", "fingerprint", "recipe", "store"} <= set(
        schemas["FeatureSetSummary"]["properties"]
    )
    assert {"history", "metrics", "features"} <= set(schemas["RunDetail"]["properties"])
    for path, shape in (
        ("/v1/feature-sets", "FeatureSetList"),
        ("/v1/feature-sets/{start}", "FeatureSetDetail"),
        ("/v1/feature-sets/{dataset}/{recipe}", "FeatureSetDetail"),
        ("/v1/runs", "RunList"),
        ("/v1/runs/{run}", "RunDetail"),
    ):
        content = found["paths"][path]["get"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{shape}")
    files = found["paths"]["/v1/feature-sets/{dataset}/{recipe}/store/{store}/{path}"]["get"]
    assert {"200", "206", "304", "404", "410", "412", "416"} <= set(files["responses"])
    assert [each["name"] for each in files["parameters"]] == ["dataset", "recipe", "store", "path"]
