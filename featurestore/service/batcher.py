"""The images of one recipe that wait for its network: who asked for each, and whose turn it is.

Turns go round the requests, one image at a time, both to be decoded and to go through the network.
So a single image does not wait until another client's 256 are done. The same bytes wait once,
whoever asks for them.

Nothing here waits, decodes or computes. One caller at a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections import deque
from collections.abc import Iterator

import numpy as np

from featurestore.online import Found

Outcome = Found | Exception


class Phase(enum.Enum):
    """Where an image is on its way."""

    WAITING = enum.auto()
    DECODING = enum.auto()
    READY = enum.auto()
    COMPUTING = enum.auto()
    DONE = enum.auto()


@dataclasses.dataclass(eq=False)
class Image:
    """Bytes on their way to features.

    Parameters
    ----------
    content
        Let go of once it is decoded.
    pixels
        (height, width, 3) uint8 RGB, while the image is ready or computed.
    by
        The request whose turn it was taken in.
    """

    digest: bytes
    content: bytes
    accepted_at: float
    asks: set[Ask] = dataclasses.field(default_factory=set)
    phase: Phase = Phase.WAITING
    pixels: np.ndarray | None = None
    ready_at: float = 0.0
    by: Ask | None = None


class Ask:
    """What one request waits for.

    Attributes
    ----------
    answered
        Done when the last image is; an image's error is its own at once.
    outcomes
        By digest, of the images that are done.
    """

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        self.outcomes: dict[bytes, Found] = {}
        self.images: list[Image] = []
        self.waiting: deque[Image] = deque()
        self.ready: deque[Image] = deque()
        self.ahead = 0  # images that are decoded, or being so, in its turns

    def tell(self, image: Image, outcome: Outcome) -> None:
        """Take note of what became of an image."""
        if self.answered.done():
            return
        if isinstance(outcome, Exception):
            self.answered.set_exception(outcome)
            return
        self.outcomes[image.digest] = outcome
        if len(self.outcomes) == len(self.images):
            self.answered.set_result(None)


class Queue:
    """See the module.

    Attributes
    ----------
    images
        Accepted and not done, by digest.
    """

    def __init__(self) -> None:
        self.images: dict[bytes, Image] = {}
        self._in_phase = dict.fromkeys(Phase, 0)
        self._asks: deque[Ask] = deque()
        self._ready_in_order: deque[Image] = deque()

    @property
    def ready(self) -> int:
        """Images that may go through the network."""
        return self._in_phase[Phase.READY]

    @property
    def coming(self) -> int:
        """Images that are still to be decoded."""
        return self._in_phase[Phase.WAITING] + self._in_phase[Phase.DECODING]

    def oldest_ready_at(self) -> float:
        """Return since when the first of the images that are ready has been so."""
        while self._ready_in_order[0].phase is not Phase.READY:
            self._ready_in_order.popleft()
        return self._ready_in_order[0].ready_at

    def join(self, ask: Ask, digest: bytes, content: bytes, *, now: float) -> None:
        """Let a request wait for an image, which may be on its way already."""
        image = self.images.get(digest)
        if image is None:
            image = self.images[digest] = Image(digest, content, now)
            self._in_phase[Phase.WAITING] += 1
        if not ask.images:
            self._asks.append(ask)
        image.asks.add(ask)
        ask.images.append(image)
        if image.phase is Phase.WAITING:
            ask.waiting.append(image)

    def leave(self, ask: Ask) -> None:
        """Drop what nobody else wants, but for what is being computed."""
        for image in ask.images:
            image.asks.discard(ask)
            if not image.asks and image.phase in (Phase.WAITING, Phase.READY):
                self.done(image)

    def next_to_decode(self, *, window: int) -> Image | None:
        """Return whose turn it is, as being decoded from now on; None if nobody's is.

        No more than `window` images are kept decoded, but every request may have one.
        """
        ahead = self.ready + self._in_phase[Phase.DECODING]
        for ask in self._in_turn():
            while ask.waiting and ask.waiting[0].phase is not Phase.WAITING:
                ask.waiting.popleft()
            if ask.waiting and (ahead < window or not ask.ahead):
                image = ask.waiting.popleft()
                image.by = ask
                ask.ahead += 1
                self._move(image, Phase.DECODING)
                return image
        return None

    def decoded(self, image: Image, pixels: np.ndarray, *, now: float) -> None:
        """Take note of an image's pixels; nobody may want it any more."""
        if image.phase is Phase.DONE:
            return
        if not image.asks:
            self.done(image)
            return
        assert image.by is not None
        image.content, image.pixels, image.ready_at = b"", pixels, now
        self._move(image, Phase.READY)
        image.by.ready.append(image)
        self._ready_in_order.append(image)

    def take(self, most: int) -> list[Image]:
        """Return up to `most` images that are ready, round the requests, as being computed."""
        taken: list[Image] = []
        while len(taken) < most and self.ready:
            for ask in self._in_turn():
                while ask.ready and ask.ready[0].phase is not Phase.READY:
                    ask.ready.popleft()
                if ask.ready:
                    image = ask.ready.popleft()
                    self._move(image, Phase.COMPUTING)
                    self._no_longer_ahead(image)
                    taken.append(image)
                    break
        return taken

    def done(self, image: Image) -> set[Ask]:
        """Forget an image and return who waits for it."""
        if image.phase is Phase.DONE:
            return set()
        if image.phase is not Phase.COMPUTING:
            self._no_longer_ahead(image)
        self._move(image, Phase.DONE)
        image.content, image.pixels = b"", None
        del self.images[image.digest]
        return image.asks

    def _in_turn(self) -> Iterator[Ask]:
        """Yield each request once, the one whose turn was longest ago first; then it is last."""
        for _ in range(len(self._asks)):
            ask = self._asks.popleft()
            if ask.waiting or ask.ready or ask.ahead:
                self._asks.append(ask)
                yield ask

    def _move(self, image: Image, phase: Phase) -> None:
        self._in_phase[image.phase] -= 1
        self._in_phase[phase] += 1
        image.phase = phase

    def _no_longer_ahead(self, image: Image) -> None:
        if image.by is not None:
            image.by.ahead -= 1
            image.by = None
