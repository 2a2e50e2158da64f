"""Who may ask: the token of the service, and what a browser that has given it keeps instead."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from featurestore.errors import InvalidInput

LEAST_CHARACTERS = 16
LIFETIME_S = 7 * 24 * 3600
HOW_TO_MAKE_ONE = (
    "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))' > token; "
    "chmod 600 token; fs serve --token-file token ..."
)
_ALLOWED = frozenset(string.ascii_letters + string.digits + string.punctuation)
_SIGNED_OUT = 10_000


def checked_token(token: str) -> str:
    """Return `token` if it can be sent in a header and is not guessed by trying.

    Raises
    ------
    InvalidInput
        It is too short, or has a space or a character beyond ASCII. The message does not show it.
    """
    if len(token) < LEAST_CHARACTERS or not _ALLOWED.issuperset(token):
        raise InvalidInput(
            f"the token: expected at least {LEAST_CHARACTERS} letters, digits and signs of ASCII "
            f"without spaces, found {len(token)} characters",
            next_step=HOW_TO_MAKE_ONE,
        )
    return token


class Sessions:
    """The token's word for it: checks tokens, and gives and checks cookies derived from them.

    A cookie says until when it is good, signed with a key that is made from the token: it outlives
    the process, and ends with the token. It does not tell the token. What is signed out is
    remembered until the process ends; a browser forgets the cookie itself.

    Parameters
    ----------
    clock
        Seconds since the epoch.
    """

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        self._token = hashlib.sha256(token.encode()).digest()
        self._key = hmac.digest(token.encode(), b"featurestore session 1", "sha256")
        self._clock = clock
        self._signed_out: OrderedDict[str, None] = OrderedDict()
        # Browsers keep one jar for all ports of a host: two services must not take each other's.
        self.cookie_name = f"featurestore_{hmac.digest(self._key, b'name', 'sha256').hex()[:8]}"

    def is_token(self, given: bytes) -> bool:
        """Whether `given` is the token, in a time that tells nothing of how much of it is."""
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._token)

    def cookie(self) -> str:
        """Return a new session's cookie, good for `LIFETIME_S`."""
        said = f"{int(self._clock()) + LIFETIME_S}.{secrets.token_hex(8)}"
        return f"{said}.{self._signature(said)}"

    def is_session(self, cookie: str) -> bool:
        """Whether `cookie` was given here, is still good, and was not signed out."""
        said, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(said).encode()):
            return False
        return int(said.split(".")[0]) > self._clock() and said not in self._signed_out

    def sign_out(self, cookie: str) -> None:
        """Let `cookie` be good no more."""
        if self.is_session(cookie):
            self._signed_out[cookie.rpartition(".")[0]] = None
            while len(self._signed_out) > _SIGNED_OUT:
                self._signed_out.popitem(last=False)

    def _signature(self, said: str) -> str:
        return hmac.new(self._key, said.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class Attempts:
    """How long a wrong token waits for its answer: longer with each, by who sends it.

    No one else waits, so nobody is kept out by another's guesses. A token of `LEAST_CHARACTERS` is
    not found by trying anyway; this keeps the noise down.

    Parameters
    ----------
    clock
        Seconds, from anywhere.
    sleep
        As `asyncio.sleep`.
    """

    _CLIENTS = 1024
    _FORGET_S = 300.0
    _FIRST_S, _MOST_S = 0.1, 2.0
    _WAITING = 64

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    async def wait_for_answer(self, client: str) -> None:
        """Count one wrong token of `client`, and let it wait."""
        delay_s = self._count(client)
        if self._waiting >= self._WAITING:
            return  # so many wait that one more would only cost memory
        self._waiting += 1
        try:
            await self._sleep(delay_s)
        finally:
            self._waiting -= 1

    def forget(self, client: str) -> None:
        """Start anew with a client that knew the token."""
        self._wrong.pop(client, None)

    def _count(self, client: str) -> float:
        count, last = self._wrong.pop(client, (0, 0.0))
        now = self._clock()
        count = 1 if now - last > self._FORGET_S else count + 1
        self._wrong[client] = count, now
        while len(self._wrong) > self._CLIENTS:
            self._wrong.popitem(last=False)
        return float(min(self._FIRST_S * 2.0 ** min(count - 1, 10), self._MOST_S))
