from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

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


def test_a_method_that_a_path_does_not_take_is_told_which_it_takes(client):
    for path, methods in {
        "/v1/feature-sets/a/b/neighbours": "GET, HEAD, POST",
        "/v1/embed": "POST",
        "/v1/runs": "GET, HEAD",
    }.items():
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
