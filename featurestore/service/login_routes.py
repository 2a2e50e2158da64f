"""Signing in from a browser: a page that takes the token and leaves a cookie in its place."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from featurestore.service.pages.rendering import page
from featurestore.service.security import LOGIN, LOGOUT, Door, client_of
from featurestore.service.service import Service
from featurestore.service.sessions import LIFETIME_S

_FORM_BYTES = 16 * 2**10
_FORM_S = 10.0
router = APIRouter(include_in_schema=False)


@router.get(LOGIN)
async def login_page(request: Request) -> Response:
    """Ask for the token."""
    target = _own_page(request.query_params.get("next", ""))
    if _door(request) is None:
        return RedirectResponse(target, 303)
    return _page(request, target)


@router.post(LOGIN)
async def sign_in(request: Request) -> Response:
    """Give a cookie for the token, and go on to the page that asked for it."""
    door = _door(request)
    if door is None:
        return RedirectResponse("/", 303)
    fields = await _fields(request)
    target = _own_page(fields.get("next", ""))
    given = fields.get("token", "").strip()
    if not await door.admits(given.encode("utf-8", "replace"), client_of(request.scope)):
        service: Service = request.app.state.service
        service.metrics.refused()
        return _page(request, target, trouble="This is not the token of this service.", status=401)
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        door.sessions.cookie_name,
        door.sessions.cookie(),
        max_age=LIFETIME_S,
        httponly=True,
        samesite="strict",
        secure=request.scope["scheme"] == "https",
    )
    return answer


@router.post(LOGOUT)
async def sign_out(request: Request) -> Response:
    """Let this browser's cookie be good no more."""
    answer = RedirectResponse(LOGIN, 303)
    if (door := _door(request)) is not None:
        name = door.sessions.cookie_name
        door.sessions.sign_out(request.cookies.get(name, ""))
        answer.delete_cookie(name, httponly=True, samesite="strict")
    return answer


def _door(request: Request) -> Door | None:
    door: Door | None = request.app.state.door
    return door


def _own_page(target: str) -> str:
    """Return a path of this service; anything that a browser might take for another's is ``/``."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return target if plain and target.startswith("/") and not target.startswith("//") else "/"


async def _fields(request: Request) -> dict[str, str]:
    """Return the fields of a form; what is no small form has none."""
    body = b""
    try:
        async with asyncio.timeout(_FORM_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _FORM_BYTES:
                    return {}
    except TimeoutError as error:
        raise HTTPException(408, "the form did not come") from error
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError:  # not ASCII, or too many
        return {}
    return {name: values[0] for name, values in found.items()}


def _page(request: Request, target: str, *, trouble: str = "", status: int = 200) -> Response:
    values: dict[str, object] = {"target": target, "trouble": trouble}
    return page(request, "login.html.j2", values=values, status=status)
