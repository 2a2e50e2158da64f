"""What a browser is shown at an address where nothing is."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from featurestore.names import printable
from featurestore.service.pages.rendering import message_page


class _Missing(Route):
    """Any page that no other route has: below ``/v1`` a client wants a problem document.

    An address that ends in a slash is left alone: it may lead to the one without.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route`."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return Match.NONE, {}
        path: str = scope["path"]
        accept = dict(scope["headers"]).get(b"accept", b"")
        if path.startswith("/v1/") or path.endswith("/") or b"text/html" not in accept:
            return Match.NONE, {}
        return super().matches(scope)


async def _missing(request: Request) -> Response:
    return message_page(request, 404, f"nothing is at {printable(request.scope['path'])}")


def add_route(app: FastAPI) -> None:
    """Let `app` answer a browser with a page where no route matches; to be called last."""
    app.router.routes.append(_Missing("/{path:path}", _missing, include_in_schema=False))
