"""Features of images' bytes for all clients: looked up, shared, batched, computed once.

What is asked and what waits is kept by the event loop, so nothing here is locked. Threads look up,
build networks, compute (one for all recipes: TensorFlow does not gain from two) and write the
online cache; processes decode.

An image that is decoded goes into the next batch of its recipe: when that is full, when nothing
else of its recipe is on its way, or when it has waited `latency_s`. So an image waits at most that
long for company; beyond it, for the pass that is under way, and for its turn where more images wait
than one batch takes. The recipe whose turn was longest ago comes first. After a network is built,
every fourth batch also waits until a smaller batch size was tried, at most once for each size.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from featurestore.catalogue import Catalogue
from featurestore.embedding.backbone import network_of
from featurestore.embedding.known import check_decoder, weights_label
from featurestore.online import ONLINE, Found, OnlineCache, Refusal
from featurestore.recipe import Recipe
from featurestore.service.batcher import Ask, Image, Outcome
from featurestore.service.contract import (
    Answer,
    Busy,
    Counts,
    FindsSets,
    NoCounts,
    ServiceSettings,
    TooLarge,
)
from featurestore.service.decode_apart import (
    DecodeLimits,
    DecodePool,
    DecodeTask,
    Lost,
    Oversized,
)
from featurestore.service.ladder import Ladder
from featurestore.service.lanes import Lane, Lanes, embed_batch
from featurestore.service.lookup import HotAnswers, Lookup, answer_of, log

_HASHED_IN_LOOP_BYTES = 2**18  # takes 0.2 ms; a thread costs half of that
_CHECK_EVERY = 4  # batches, where the network is never idle
_RETRY_S = (1, 60)


class Embedder:
    """See `EmbedsImages`. For one event loop.

    Parameters
    ----------
    decoder
        As in `DecodePool`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        catalogue: FindsSets,
        *,
        counts: Counts | None = None,
        decoder: str | None = None,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._counts = counts or NoCounts()
        self._online: OnlineCache | None = None
        if settings.online_bytes:
            self._online = OnlineCache(
                settings.cache / ONLINE, max_bytes=settings.online_bytes, say=log.warning
            )
        self._hot = HotAnswers()
        self._lanes = Lanes(self._look_up)
        limits = DecodeLimits(pixels=settings.limits.pixels)
        workers = settings.workers or os.cpu_count() or 1
        self._decoders = (
            DecodePool(workers, limits=limits)
            if decoder is None
            else DecodePool(workers, limits=limits, decoder=decoder)
        )
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="look-up")
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="build")
        self._computer = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoding = 0
        self._computing = False
        self._images_per_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asking = 0
        self._closing = False
        self._quiet = asyncio.Event()

    @property
    def queued(self) -> int:
        """Images that were accepted and are not done."""
        return sum(len(lane.queue.images) for lane in self._lanes)

    async def embed(
        self, recipe: Recipe, images: Sequence[bytes], *, other_weights: Sequence[str] = ()
    ) -> list[Answer]:
        """See `EmbedsImages.embed`."""
        if self._closing:
            raise Busy("the service is ending", next_step="ask again when it runs")
        lane = self._lanes.of(recipe)
        lane.asking += 1
        self._asking += 1
        try:
            digests = await self._digests(images)
            answers = await self._known(lane, digests)
            contents = {
                digest: content
                for digest, content in zip(digests, images, strict=True)
                if digest not in answers
            }
            if contents:
                answers |= await self._computed(lane, contents, other_weights)
        finally:
            lane.asking -= 1
            self._asking -= 1
            if not self._asking:
                self._quiet.set()
        given = [answers[digest] for digest in digests]
        for origin, many in Counter(answer.origin for answer in given).items():
            self._counts.answered(origin, many)
        return given

    async def close(self) -> None:
        """See `EmbedsImages.close`."""
        self._closing = True
        while self._asking:
            self._quiet.clear()
            await self._quiet.wait()
        while self._tasks:  # what was computed for clients that have gone is kept
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        for threads in (self._threads, self._builder, self._computer, self._keeper):
            threads.shutdown(wait=True)
        self._decoders.close()
        self._lanes.close()
        if self._online is not None:
            self._online.close()

    def _look_up(self, recipe: Recipe) -> Lookup:
        return Lookup(
            recipe,
            catalogue=self._catalogue,
            records_now=Catalogue(self._settings.cache).records,
            online=self._online,
        )

    async def _digests(self, images: Sequence[bytes]) -> list[bytes]:
        if sum(map(len, images)) <= _HASHED_IN_LOOP_BYTES:
            return _hashed(images)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _hashed, images)

    async def _known(self, lane: Lane, digests: Sequence[bytes]) -> dict[bytes, Answer]:
        answers: dict[bytes, Answer] = {}
        unknown = []
        for digest in dict.fromkeys(digests):
            answer = self._hot.get(lane.fingerprint, digest)
            if answer is not None:
                answers[digest] = answer
            elif digest not in lane.queue.images:
                unknown.append(digest)
        if unknown:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, lane.lookup.find, unknown
            )
            for digest, (each, origin) in found.items():
                answers[digest] = answer = answer_of(digest, each, origin)
                self._hot.put(lane.fingerprint, digest, answer)
        return answers

    async def _computed(
        self, lane: Lane, contents: dict[bytes, bytes], other_weights: Sequence[str]
    ) -> dict[bytes, Answer]:
        answers: dict[bytes, Answer] = {}
        for digest in list(contents):  # another request's may have come while this was looked up
            answer = self._hot.get(lane.fingerprint, digest)
            if answer is not None:
                answers[digest] = answer
                del contents[digest]
        fresh = sum(digest not in lane.queue.images for digest in contents)
        queued = self.queued
        # Alone, a request is taken whatever its size: it would be told to come again for ever.
        if fresh and queued and queued + fresh > self._settings.limits.queued_images:
            raise Busy(
                f"{queued} images wait for the network, and {fresh} more are above the limit of "
                f"{self._settings.limits.queued_images}",
                next_step="send them again later, or fewer at once",
                retry_after_s=self._retry_after_s(queued),
            )
        ask = Ask(asyncio.get_running_loop().create_future())
        now = time.monotonic()
        for digest, content in contents.items():
            lane.queue.join(ask, digest, content, now=now)
        if contents:
            if lane.ladder is None and not lane.building:
                lane.building = True
                self._go(self._build(lane, tuple(other_weights)))
            self._go_on()
            try:
                await ask.answered
            finally:
                lane.queue.leave(ask)
                self._go_on()
        return answers | {
            digest: answer_of(digest, found, "computed") for digest, found in ask.outcomes.items()
        }

    def _retry_after_s(self, queued: int) -> int:
        least, most = _RETRY_S
        if not self._images_per_s:
            return least
        return max(least, min(most, math.ceil(queued / self._images_per_s)))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_on(self) -> None:
        """Begin whatever may begin now: decoding, and a batch where the network is idle."""
        self._counts.queued(self.queued)
        while self._decoding <= self._decoders.workers:  # one more waits, so that none is idle
            if not self._begin_decoding():
                break
        if not self._computing:
            self._begin_batch()

    def _begin_decoding(self) -> bool:
        for lane in self._lanes.by_decoding():
            image = lane.queue.next_to_decode(window=lane.window)
            if image is not None:
                lane.decoded_turn = self._lanes.next_turn()
                self._decoding += 1
                self._go(self._decode(lane, image))
                return True
        return False

    def _begin_batch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        soonest = math.inf
        for lane in self._lanes.by_computing():
            ladder, ready = lane.ladder, lane.queue.ready
            if ladder is None or not ready:
                continue
            due = lane.queue.oldest_ready_at() + self._settings.latency_s
            if ready >= ladder.most or not lane.queue.coming or now >= due:
                if ladder.may_check and lane.batches >= _CHECK_EVERY:
                    self._begin_check(lane, ladder)
                    return
                lane.computed_turn = self._lanes.next_turn()
                lane.batches += 1
                self._computing = True
                self._go(self._compute(lane, ladder, lane.queue.take(ladder.share(ready))))
                return
            soonest = min(soonest, due)
        if soonest < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, soonest - now), self._go_on)
        elif not self._decoding:
            for lane in self._lanes:
                if lane.ladder is not None and lane.ladder.may_check:
                    self._begin_check(lane, lane.ladder)
                    return

    def _begin_check(self, lane: Lane, ladder: Ladder) -> None:
        lane.batches = 0
        self._computing = True
        self._go(self._check(ladder))

    async def _check(self, ladder: Ladder) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._computer, ladder.check)
        except Exception:  # of a size that is then not used; the full one says what is wrong
            log.exception("a smaller batch size cannot be used")
        self._computing = False
        self._go_on()

    async def _decode(self, lane: Lane, image: Image) -> None:
        recipe = lane.recipe
        task = DecodeTask(image.content, recipe.size, recipe.interpolation)
        try:
            decoded = await asyncio.wrap_future(self._decoders.decode(task))
        except Exception as error:  # a process that does not start: of this image and those beside
            lane.finish(image, error)
        else:
            if isinstance(decoded, np.ndarray):
                lane.queue.decoded(image, decoded, now=time.monotonic())
            elif isinstance(decoded, Oversized):
                name = image.digest.hex()[:12]
                lane.finish(image, TooLarge(f"image {name}: {decoded.reason}"))
            elif isinstance(decoded, Lost):
                log.warning("image %s: %s", image.digest.hex(), decoded.reason)
                lane.finish(image, Refusal(decoded.reason))
            else:
                await self._keep(lane, {image: decoded})
        finally:
            self._decoding -= 1
            self._go_on()

    async def _compute(self, lane: Lane, ladder: Ladder, images: list[Image]) -> None:
        begun = time.monotonic()
        outcomes: dict[Image, Outcome]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._computer, embed_batch, ladder, images
            )
        except Exception as error:  # of one batch: it is each image's answer, and others go on
            outcomes = dict.fromkeys(images, error)
        seconds = time.monotonic() - begun
        self._computing = False
        self._counts.batch(len(images), seconds)
        rate = len(images) / seconds
        self._images_per_s = 0.8 * (self._images_per_s or rate) + 0.2 * rate
        self._go_on()
        found: dict[Image, Found] = {}
        for image, outcome in outcomes.items():
            if isinstance(outcome, Exception):
                lane.finish(image, outcome)
            else:
                found[image] = outcome
        await self._keep(lane, found)

    async def _keep(self, lane: Lane, found: dict[Image, Found]) -> None:
        """Answer with facts once they are in the online cache: a kill then loses no answer."""
        if not found:
            return
        facts = {image.digest: each for image, each in found.items()}
        try:
            kept = await asyncio.get_running_loop().run_in_executor(
                self._keeper, lane.lookup.keep, facts
            )
        except Exception:  # such as no memory; the answers do not depend on the memo
            log.exception("the online cache cannot be written")
            kept = False
        for image, each in found.items():
            if kept:
                answer = answer_of(image.digest, each, "online cache")
                self._hot.put(lane.fingerprint, image.digest, answer)
            lane.finish(image, each)
        self._counts.queued(self.queued)

    async def _build(self, lane: Lane, other_weights: tuple[str, ...]) -> None:
        try:
            lane.ladder = await asyncio.get_running_loop().run_in_executor(
                self._builder, self._built, lane, other_weights
            )
        except Exception as error:  # it is the answer to all who wait for this network
            for image in list(lane.queue.images.values()):
                lane.finish(image, error)
        finally:
            lane.building = False
        self._lanes.drop_networks()
        self._go_on()

    def _built(self, lane: Lane, other_weights: tuple[str, ...]) -> Ladder:
        recipe = lane.recipe
        check_decoder(recipe)
        if self._settings.network is not None:
            return Ladder(self._settings.network(recipe))
        label = weights_label(recipe, lane.lookup.records(), others=other_weights)
        return Ladder(network_of(recipe, weights=label))


def _hashed(images: Sequence[bytes]) -> list[bytes]:
    return [hashlib.sha256(content).digest() for content in images]
