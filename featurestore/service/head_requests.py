"""HEAD wherever there is GET: FastAPI, unlike Starlette, answers it 405."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featurestore.service.file_routes import knows_head


class HeadAsGet:
    """Answers HEAD with what GET would say, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or knows_head(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        asked = {**scope, "method": "GET"}  # the server goes on knowing that it is HEAD
        try:
            await self._app(asked, receive, send_head)
        finally:
            scope["route"] = asked.get("route")
