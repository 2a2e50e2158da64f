"""Who is let in: tokens, sessions, hosts and origins, and what every answer carries."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from featurestore.errors import InvalidInput
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.service.sessions import LIFETIME_S, Attempts, Sessions, checked_token

TOKEN = "a-token-of-thirty-two-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def open_client(cache: Path, *, host: str = "testserver", **settings) -> TestClient:
    app = create_app(ServiceSettings(cache=cache, **settings))
    return TestClient(app, base_url=f"http://{host}", follow_redirects=False)


@pytest.fixture
def client(tmp_path):
    """Of a service that asks for a token."""
    with open_client(tmp_path, token=TOKEN) as client:
        yield client


@pytest.fixture
def local(tmp_path):
    """Of a service that asks for none and knows its names."""
    with open_client(tmp_path, host="127.0.0.1:8000", hosts=("localhost", "127.0.0.1")) as client:
        yield client


def sign_in(client: TestClient, **fields: str):
    return client.post("/login", data={"token": TOKEN, **fields})


def test_the_token_lets_in_and_nothing_else_does(client):
    assert client.get("/v1/runs", headers=BEARER).status_code == 200
    assert client.get("/v1/runs", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200
    for wrong in (
        "",
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
    ):
        answer = client.get("/v1/runs", headers={"Authorization": wrong})
        assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/v1/runs", "/metrics", "/openapi.json", "/docs", "/none", "/"])
def test_without_a_token_only_the_open_paths_answer(client, path):
    assert client.get(path).status_code == 401
    assert client.post(path).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/login"])
def test_open_paths_need_no_token_and_bear_a_wrong_one(client, path):
    assert client.get(path).status_code == 200
    assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/static/../v1/runs", "/static/%2e%2e/v1/runs", "/static/..%2fv1%2fruns", "//v1/runs"]
)
def test_no_open_path_leads_to_a_closed_one(client, path):
    assert client.get(path).status_code in (401, 404)


def test_a_browser_is_sent_to_sign_in_and_on_to_where_it_wanted(client):
    page = client.get("/runs?sort=accuracy&q=a%26b", headers={"Accept": "text/html"})
    assert page.status_code == 303
    assert page.headers["location"] == "/login?next=/runs%3Fsort%3Daccuracy%26q%3Da%2526b"
    shown = client.get(page.headers["location"])
    assert 'value="/runs?sort=accuracy&amp;q=a%26b"' in shown.text
    assert sign_in(client, next="/runs?sort=accuracy").headers["location"] == "/runs?sort=accuracy"


def test_signing_in_leaves_a_cookie_that_scripts_and_other_sites_cannot_use(client):
    answer = sign_in(client)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert "secure" not in cookie  # a browser would not send it over plain HTTP
    assert TOKEN not in cookie
    assert client.get("/v1/runs").status_code == 200


def test_over_https_the_cookie_is_secure(tmp_path):
    app = create_app(ServiceSettings(cache=tmp_path, token=TOKEN))
    with TestClient(app, base_url="https://host", follow_redirects=False) as client:
        assert "secure" in sign_in(client).headers["set-cookie"].lower()


def test_signing_out_ends_the_session_itself_not_only_the_browsers_copy(client):
    sign_in(client)
    kept = {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
    answer = client.post("/logout", headers={"Origin": "http://testserver"})
    assert answer.status_code == 303
    client.cookies.clear()
    assert client.get("/v1/runs", headers=kept).status_code == 401


def test_a_wrong_token_gives_no_cookie(client):
    answer = client.post("/login", data={"token": "wrong"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "not the token" in answer.text


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb"],
)
def test_signing_in_leads_to_no_other_site(client, target):
    assert sign_in(client, next=target).headers["location"] == "/"
    page = client.get("/login", params={"next": target})
    assert 'name="next" value="/"' in page.text


def test_a_hostile_target_is_escaped(client):
    page = client.get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"token=%ff", b"token=" + b"x" * 100_000, b"a=b&" * 1000]
)
def test_any_body_of_the_sign_in_form_is_answered(client, body):
    assert client.post("/login", content=body).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://testserver"}, 405),  # let in; the route takes no POST
        ({"Sec-Fetch-Site": "same-origin"}, 405),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({}, 403),  # a browser that has a cookie says where it is
    ],
)
def test_with_a_cookie_only_our_own_pages_may_post(client, headers, status):
    sign_in(client)
    assert client.post("/v1/runs", headers=headers).status_code == status


def test_a_program_with_the_token_may_post_from_anywhere(client):
    answer = client.post("/v1/runs", headers={**BEARER, "Origin": "http://evil.example"})
    assert answer.status_code == 405


def test_without_a_token_no_page_of_another_site_may_post(local):
    assert local.post("/v1/runs").status_code == 405  # a program
    assert local.post("/v1/runs", headers={"Origin": "http://evil.example"}).status_code == 403
    assert local.post("/v1/runs", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 405


def test_a_service_without_token_answers_to_its_own_names_only(local):
    for host in ("localhost:8000", "127.0.0.1", "LocalHost"):
        assert local.get("/v1/runs", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000"):
        answer = local.get("/v1/runs", headers={"Host": host})
        assert answer.status_code == 421, host


@pytest.mark.parametrize("host", ["[", "a b", "a/b", "a@b", "", "a:b", "[::1", "x" * 300])
def test_a_host_that_is_none_is_refused_before_anything_reads_it(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 400


def test_too_long_a_url_or_head_is_refused(client):
    assert client.get("/" + "a" * 9000, headers=BEARER).status_code == 414
    assert client.get("/?" + "a" * 9000, headers=BEARER).status_code == 414
    assert client.get("/healthz", headers={"X": "a" * 40_000}).status_code == 431
    many = {f"X-{number}": "" for number in range(200)}
    assert client.get("/healthz", headers=many).status_code == 431


@pytest.mark.parametrize("path", ["/healthz", "/login", "/none", "/v1/runs"])
def test_every_answer_forbids_foreign_scripts_frames_and_guessing(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "private, no-cache"


def test_head_is_answered_as_get_without_the_body(client):
    got, head = (getattr(client, verb)("/v1/runs", headers=BEARER) for verb in ("get", "head"))
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]


def test_a_session_ends_with_its_time_and_with_its_token():
    now = 1_000_000.0
    sessions = Sessions(TOKEN, clock=lambda: now)
    cookie = sessions.cookie()
    assert Sessions(TOKEN, clock=lambda: now + LIFETIME_S - 1).is_session(cookie)
    assert not Sessions(TOKEN, clock=lambda: now + LIFETIME_S).is_session(cookie)
    assert not Sessions(TOKEN + "x", clock=lambda: now).is_session(cookie)


@pytest.mark.parametrize("change", ["later", "signature", "empty", "text"])
def test_a_changed_cookie_is_no_session(change):
    sessions = Sessions(TOKEN)
    until, name, signature = sessions.cookie().split(".")
    cookie = {
        "later": f"{int(until) + 1}.{name}.{signature}",
        "signature": f"{until}.{name}.{'0' * 64}",
        "empty": "",
        "text": "\xff.x",
    }[change]
    assert not sessions.is_session(cookie)


def test_two_services_on_one_host_do_not_share_a_cookie():
    assert Sessions(TOKEN).cookie_name == Sessions(TOKEN).cookie_name
    assert Sessions(TOKEN).cookie_name != Sessions(TOKEN + "x").cookie_name


def test_wrong_tokens_wait_longer_each_time_and_only_for_their_sender():
    waits: list[float] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    attempts = Attempts(clock=lambda: now, sleep=sleep)

    async def wrong(client: str, times: int = 1) -> list[float]:
        waits.clear()
        for _ in range(times):
            await attempts.wait_for_answer(client)
        return list(waits)

    async def story() -> None:
        nonlocal now
        assert await wrong("a", 7) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        assert await wrong("b") == [0.1]
        attempts.forget("a")
        assert await wrong("a") == [0.1]
        assert await wrong("a") == [0.2]
        now += 301
        assert await wrong("a") == [0.1]

    asyncio.run(story())


def test_what_waits_is_bounded():
    async def story() -> None:
        woken = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await woken.wait()

        attempts = Attempts(sleep=sleep)
        tasks = [asyncio.create_task(attempts.wait_for_answer("a")) for _ in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) == 200 - Attempts._WAITING
        woken.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a space in the middle", "ü" * 20])
def test_a_token_that_is_weak_or_no_header_is_refused_unshown(token):
    with pytest.raises(InvalidInput) as caught:
        checked_token(token)
    assert not token or token not in str(caught.value)
    assert checked_token("x" * 16) == "x" * 16


def test_credentials_of_another_scheme_refuse_no_session(client):
    sign_in(client)
    basic = {"Authorization": "Basic cHJveHk6cGFzcw=="}
    assert client.get("/v1/runs", headers=basic).status_code == 200
    client.cookies.clear()
    assert client.get("/v1/runs", headers=basic).status_code == 401
