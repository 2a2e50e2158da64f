"""Alive, ready, and what a load balancer may conclude."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.live_catalogue import FRESH_S


@pytest.fixture
def client(tmp_path):
    with TestClient(create_app(ServiceSettings(cache=tmp_path))) as client:
        yield client


def test_a_service_of_a_new_cache_is_alive_and_ready(client):
    assert client.get("/healthz").text == "alive\n"
    assert client.get("/readyz").text == "ready\n"
    assert client.head("/healthz").status_code == 200


def test_a_service_whose_cache_is_gone_is_not_ready_and_lists_nothing(client, tmp_path):
    tmp_path.rename(tmp_path.with_name("away"))
    time.sleep(FRESH_S)
    assert client.get("/healthz").status_code == 200
    for path in ("/readyz", "/v1/feature-sets", "/v1/runs", "/"):
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert str(tmp_path) not in answer.text


def test_a_service_that_is_stopping_is_alive_and_not_ready(client):
    client.app.state.service.stopping = True
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_service_whose_cache_cannot_be_read_is_not_ready_and_says_no_path(client, caplog):
    class Broken:
        def current(self):
            raise PermissionError(13, "Permission denied", "/secret/cache")

    client.app.state.service.catalogue = Broken()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "cannot be read" in caplog.text
