"""The API's description and the page that shows it, without anything from another server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.docs_view import Block, blocks_of, groups_of
from featurestore.testing.serving import serve

TOKEN = "a-token-of-thirty-two-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def describe(cache: Path, token: str | None = None) -> dict:
    with TestClient(create_app(ServiceSettings(cache=cache, token=token))) as client:
        return client.get("/openapi.json", headers=BEARER).json()


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    return describe(tmp_path_factory.mktemp("cache"), TOKEN)


def operations(description):
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_operation_says_what_it_is_for(description):
    assert description["info"]["title"] == "featurestore"
    assert "problem documents" in description["info"]["description"]
    tags = {tag["name"] for tag in description["tags"]}
    for path, method, operation in operations(description):
        assert operation.get("description"), (path, method)
        assert set(operation["tags"]) <= tags, (path, method)
        assert "`Raises`" not in operation["description"]
        assert "Raises\n" not in operation["description"], (path, method)


def test_every_error_is_a_problem_document(description):
    for path, method, operation in operations(description):
        assert "default" in operation["responses"]
        for status, response in operation["responses"].items():
            if status == "default" or status >= "400":
                assert list(response["content"]) == ["application/problem+json"], (path, method)


def test_all_that_it_refers_to_is_there(description):
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(description)))
    assert named <= set(description["components"]["schemas"])
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_the_token_is_part_of_it_where_one_is_asked_for(description, tmp_path):
    assert description["security"] == [{"token": []}]
    for path, _, operation in operations(description):
        is_open = path in ("/healthz", "/readyz")
        assert (operation.get("security") == []) == is_open, path
        assert ("401" in operation["responses"]) != is_open, path
    assert "security" not in describe(tmp_path)


def test_prose_and_code_are_told_apart():
    assert blocks_of("One `code` two\nlines.\n\n    curl x\n      -y\n\nLast.") == (
        Block("text", ("One ", "code", " two lines.")),
        Block("code", ("curl x\n  -y",)),
        Block("text", ("Last.",)),
    )
    assert blocks_of("") == (Block("text", ("",)),)


def test_commands_to_copy_are_whole_and_safe_in_a_shell(description):
    curls = [
        operation.curl
        for group in groups_of(description, url="http://host:1/$(false)'")
        for operation in group.operations
    ]
    assert len(curls) == sum(1 for _ in operations(description))
    for curl in curls:
        assert "{" not in curl  # which curl would expand
        said = subprocess.run(
            ["bash", "-c", curl.replace("curl", "printf '%s\\n'", 1)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "FS_TOKEN": "tok"},
        )
        words = said.stdout.splitlines()
        assert words[-1].startswith("http://host:1/$(false)'/"), words
        if "-H" in words:
            assert words[words.index("-H") + 1] == "Authorization: Bearer tok"


def test_what_a_route_says_is_escaped(tmp_path):
    app = create_app(ServiceSettings(cache=tmp_path))

    async def odd() -> None:
        """Say `<script>alert(1)</script>` <img src=x>."""

    app.add_api_route("/odd", odd, tags=["<b>"])
    with TestClient(app) as client:
        text = client.get("/docs").text
    assert "&lt;script&gt;" in text
    assert "<script>alert" not in text and "<img src=x>" not in text and "<b>" not in text


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_that_reaches_nothing_else_signs_in_and_reads_the_page(tmp_path, browser, width):
    with serve(ServiceSettings(cache=tmp_path, token=TOKEN)) as url:
        context = browser.new_context(viewport={"width": width, "height": 800})
        foreign, said = [], []

        def only_ours(route):
            if urlsplit(route.request.url).netloc == urlsplit(url).netloc:
                route.continue_()
            else:
                foreign.append(route.request.url)
                route.abort()

        context.route("**/*", only_ours)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{url}/docs")
        assert urlsplit(page.url).path == "/login"
        page.get_by_label("Token of this service").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/docs")
        assert page.locator("article.operation").count() > 10
        page.get_by_role("link", name="/v1/embed").first.click()
        article = page.locator("#post-v1-embed")
        assert article.locator("pre", has_text="curl -H").is_visible()
        article.get_by_text("Answers").click()
        assert article.get_by_text("429").is_visible()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none"  # styles came
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{url}/login")
        page.goto(f"{url}/docs")
        assert urlsplit(page.url).path == "/login"
        assert (foreign, said) == ([], [])
        context.close()
