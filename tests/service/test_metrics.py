"""What is counted, logged and echoed of each request, and that no client can bend it."""

from __future__ import annotations

import io
import json
import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import featurestore as fs
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.logs import JsonLines, TextLines, configure_logging
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph, write_image_folder

TOKEN = "a-token-of-thirty-two-characters"


@pytest.fixture
def client(tmp_path):
    with TestClient(create_app(ServiceSettings(cache=tmp_path))) as client:
        yield client


def samples(client, **headers) -> dict[tuple[str, ...], float]:
    """Return every sample of `/metrics` under its name and its labels' values."""
    answer = client.get("/metrics", headers=headers)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_the_template_of_their_route(client):
    for _ in range(3):
        client.get("/v1/feature-sets/none/such")
    client.get("/v1/runs")
    found = samples(client)
    requests = {key[1:]: value for key, value in found.items() if key[0].endswith("requests_total")}
    assert requests["GET", "/v1/runs", "200"] == 1
    (template,) = (key[1] for key in requests if key[1].startswith("/v1/feature-sets/"))
    assert "{" in template
    assert requests["GET", template, "404"] == 3
    assert found["featurestore_request_seconds_count", "GET", template] == 3
    assert found["featurestore_sent_bytes_total", "/v1/runs"] > 0
    assert found["featurestore_requests_in_flight",] == 1  # the one that asks


def test_no_text_of_a_client_becomes_a_label(client):
    def ask(number: int) -> set[tuple[str, ...]]:
        client.get(f"/made-up-{number}")
        client.get(f"/v1/runs/made-up-{number}")
        client.request(f"MADEUP{number}", "/v1/runs")
        client.get("/v1/runs", headers={"X-Request-Id": f"made-up-{number}"})
        return set(samples(client))

    ask(0)
    once = ask(1)
    assert ask(2) == ask(3) == once
    assert not [key for key in once if any("made" in part.lower() for part in key)]
    assert samples(client)["featurestore_requests_total", "other", "/v1/runs", "405"] == 4


def test_wrong_tokens_are_counted(tmp_path):
    with TestClient(create_app(ServiceSettings(cache=tmp_path, token=TOKEN))) as client:
        client.get("/v1/runs", headers={"Authorization": "Bearer wrong"})
        client.post("/login", data={"token": "wrong"})
        client.get("/v1/runs")  # no attempt at all
        found = samples(client, Authorization=f"Bearer {TOKEN}")
    assert found["featurestore_sign_in_failures_total",] == 2


def test_hits_misses_and_batches_are_counted(tmp_path):
    write_image_folder(tmp_path / "photos")
    result = fs.embed(
        tmp_path / "photos", fs.EmbedSettings(), cache=tmp_path / "cache", choose=TinyChoice
    )
    settings = ServiceSettings(
        cache=tmp_path / "cache", network=lambda recipe: TinyNetwork(dtype=recipe.dtype)
    )
    known = next((tmp_path / "photos").rglob("*.jpg")).read_bytes()
    new = encode(photograph(0, index=999))
    with TestClient(create_app(settings)) as client:
        for image in (known, new, new):
            answer = client.post(f"/v1/embed?recipe={result.feature_set}", content=image)
            assert answer.status_code == 200, answer.text
        found = samples(client)
    images = {
        key[1]: value for key, value in found.items() if key[0] == "featurestore_images_total"
    }
    assert images["feature set"] == 1
    assert images["computed"] == 1
    assert sum(images.values()) == 3
    assert found["featurestore_batch_images_count",] == 1
    assert found["featurestore_batch_images_sum",] == 1
    assert found["featurestore_queued_images",] == 0
    assert found["featurestore_received_bytes_total",] == len(known) + 2 * len(new)


def with_routes(tmp_path) -> FastAPI:
    app = create_app(ServiceSettings(cache=tmp_path))

    async def bug():
        raise RuntimeError("a secret of the implementation")

    async def system():
        raise OSError(5, "Input/output error", "/secret/path")

    app.add_api_route("/bug", bug)
    app.add_api_route("/system", system)
    return app


@pytest.mark.parametrize("path", ["/bug", "/system"])
def test_a_bug_is_a_problem_without_a_trace_found_in_the_log_by_its_id(tmp_path, caplog, path):
    with TestClient(with_routes(tmp_path)) as client:
        answer = client.get(path, headers={"X-Request-Id": "asked-by-me"})
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text and "Traceback" not in answer.text
        assert "asked-by-me" in answer.json()["detail"]
        assert "content-security-policy" in answer.headers
        assert samples(client)["featurestore_requests_total", "GET", path, "500"] == 1
    assert any(record.exc_info for record in caplog.records)


def test_the_id_of_a_request_is_the_clients_own_where_it_is_one(client):
    given = client.get("/healthz", headers={"X-Request-Id": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    made = [
        client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"]
        for bad in ("", "a b", "x" * 65, "a\tb", "<b>")
    ]
    assert len(set(made)) == 5
    assert all(len(each) == 16 for each in made)


@pytest.fixture
def written():
    """What is logged while the test runs, as `configure_logging` writes it; call it with a form."""
    root = logging.getLogger()
    before = root.handlers, root.level
    kept = {name: getattr(logging, name) for name in vars(logging) if name.startswith("log")}
    stream = io.StringIO()

    def begin(form):
        configure_logging(form, stream)
        return stream

    yield begin
    root.handlers, root.level = before
    for name, value in kept.items():
        setattr(logging, name, value)
    logging.captureWarnings(False)


def test_each_request_is_one_line_of_json_without_its_query(client, written):
    lines = written("json")
    client.get("/v1/feature-sets/a\u202eb?token=hidden", headers={"X-Request-Id": "asked"})
    (line,) = lines.getvalue().splitlines()
    said = json.loads(line)
    assert said["method"] == "GET" and said["status"] == 404
    assert said["path"] == "/v1/feature-sets/a\u202eb"
    assert said["request_id"] == "asked"
    assert said["bytes"] > 0 and said["ms"] >= 0
    assert said["time"].endswith("Z") and said["level"] == "info"
    assert "hidden" not in line
    assert line.isascii()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_client_cannot_write_lines_or_move_the_cursor(client, written, form):
    lines = written(form)
    client.get("/a%0a%0dforged%1b[2J%e2%80%a8line")
    client.get("/healthz", headers={"User-Agent": "a\x1b[2J"})
    text = lines.getvalue()
    assert len(text.splitlines()) == 2
    assert "\x1b" not in text and "\r" not in text and "\u2028" not in text


def test_no_token_is_logged(tmp_path, written):
    lines = written("text")
    with TestClient(create_app(ServiceSettings(cache=tmp_path, token=TOKEN))) as client:
        client.get("/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"})
        client.post("/login", data={"token": TOKEN})
        client.get(f"/login?token={TOKEN}")
    assert len(lines.getvalue().splitlines()) == 4  # signing in leads on to a page
    assert TOKEN not in lines.getvalue()


@pytest.mark.parametrize("lines", [JsonLines(), TextLines()])
def test_a_traceback_is_kept(lines):
    try:
        raise ValueError("\x1b[2Jwhy")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "x.py", 1, "it failed: %s", ("\n",), sys_exc_info()
        )
    line = lines.format(record)
    assert "ValueError" in line and "\x1b" not in line
    assert ("\n" in line) == isinstance(lines, TextLines)


def sys_exc_info():
    import sys

    return sys.exc_info()
