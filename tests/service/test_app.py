from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from featurestore.errors import IntegrityError
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings


@pytest.fixture
def client(tmp_path: Path):
    with TestClient(create_app(ServiceSettings(cache=tmp_path))) as client:
        yield client


def test_an_empty_cache_has_no_feature_set(client):
    assert client.get("/v1/feature-sets").json()["feature_sets"] == []


def test_an_error_is_a_problem_document(client):
    answer = client.get("/v1/feature-sets/none/such")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "none/such" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/feature-sets/none", "/v1/runs/none", "/sets/none"])
def test_an_error_names_no_folder_and_no_command_of_the_servers_owner(client, tmp_path, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text
    assert "fs embed" not in answer.text and "fs runs" not in answer.text


def test_what_only_the_owner_can_mend_has_a_fixed_sentence_and_the_id_of_the_log(client, tmp_path):
    def damaged(wanted):
        raise IntegrityError(f"{tmp_path}/x: KeyError('x')", next_step="fs rm x")

    client.app.state.service.catalogue.run = damaged
    answer = client.get("/v1/runs/x", headers={"X-Request-Id": "asked-1"})
    assert answer.status_code == 500
    assert answer.json()["detail"].endswith("its log says how, under asked-1")
    assert "damaged" in answer.json()["detail"] and "next_step" not in answer.json()
    assert "KeyError" not in answer.text and str(tmp_path) not in answer.text


def test_the_description_says_how_damage_is_answered(client):
    paths = client.app.openapi()["paths"]
    store = "/v1/feature-sets/{dataset}/{recipe}/store/{store}"
    files = (store, f"{store}/{{path}}", "/v1/runs/{run}/files/{name}")
    asked = [paths[path]["get"] for path in files]
    asked += [paths[path]["post"] for path in ("/v1/embed", "/v1/predict")]
    for each in asked:
        assert "damaged" in each["responses"]["500"]["description"]


@pytest.mark.parametrize(
    "path", ["/v1/feature-sets/a/store/neighbours", "/v1/feature-sets/store/none", "/store/none"]
)
def test_head_is_answered_as_get_though_a_name_is_store(client, path):
    assert client.head(path).status_code == client.get(path).status_code != 405


def test_a_method_that_a_path_does_not_take_is_told_which_it_takes(client):
    for path, methods in {
        "/v1/feature-sets/a/b/neighbours": "GET, HEAD, POST",
        "/v1/embed": "POST",
        "/v1/runs": "GET, HEAD",
    }.items():
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
