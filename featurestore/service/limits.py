"""How many requests may compute at once: the others are told to come again, not kept waiting."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featurestore.service.contract import Busy, Limits
from featurestore.service.problems import answer_of

_COMPUTING = "/v1/"


class Places:
    """Places for requests at work. For one event loop."""

    def __init__(self, requests: int) -> None:
        self._free = requests
        self._requests = requests

    @property
    def full(self) -> bool:
        """Whether all are taken."""
        return self._free == 0

    def take(self) -> None:
        """Take one; who does gives it back.

        Raises
        ------
        Busy
            All are taken.
        """
        if self.full:
            raise Busy(f"{self._requests} requests are at work, as many as this service takes on")
        self._free -= 1

    def give_back(self) -> None:
        """Let the next one have it."""
        self._free += 1


class Limited:
    """Gives each request that sends something to compute on a place, from body to answer.

    Not before its body is here, nor once its answer begins: a client that takes its time to send or
    to read would hold a place that others could use. When all are taken on arrival, it is told
    before it sends.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._places = Places(limits.requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or not scope["path"].startswith(_COMPUTING)
        ):
            await self._app(scope, receive, send)
            return
        places = self._places
        if places.full:
            try:
                places.take()
            except Busy as busy:
                await answer_of(busy)(scope, receive, send)
            return
        taken = answered = False

        async def receive_then_take() -> Message:
            nonlocal taken
            message = await receive()
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            if whole and not taken and not answered:
                places.take()
                taken = True
            return message

        def give_back() -> None:
            nonlocal taken
            if taken:
                places.give_back()
                taken = False

        async def give_back_then_send(message: Message) -> None:
            nonlocal answered
            answered = True
            give_back()
            await send(message)

        try:
            await self._app(scope, receive_then_take, give_back_then_send)
        finally:
            give_back()
