"""What takes seconds is made once, by one thread, and never fills memory or the queue."""

import asyncio
import threading

import pytest

from featurestore.errors import Conflict
from featurestore.service.contract import Busy
from featurestore.service.pages import slow_parts
from featurestore.service.pages.slow_parts import Part, SlowParts


@pytest.fixture
def parts():
    made = SlowParts()
    yield made
    made.close()


class Maker:
    """Makes parts, counts them, and waits until it may."""

    def __init__(self, html="x", may_go=None):
        self.calls, self.html, self.may_go = 0, html, may_go

    def __call__(self):
        if self.may_go is not None:
            assert self.may_go.wait(20)
        self.calls += 1
        return Part("title", self.html)


def test_those_who_ask_at_once_share_what_is_made(parts):
    may_go = threading.Event()
    make = Maker(may_go=may_go)

    async def ask():
        asked = [asyncio.ensure_future(parts.get("a", make)) for _ in range(20)]
        await asyncio.sleep(0.01)
        may_go.set()
        return await asyncio.gather(*asked), await parts.get("a", make)

    found, later = asyncio.run(ask())
    assert make.calls == 1
    assert set(found) == {later}


def test_one_who_leaves_takes_nothing_from_the_others(parts):
    may_go = threading.Event()
    make = Maker(may_go=may_go)

    async def ask():
        leaves = asyncio.ensure_future(parts.get("a", make))
        await asyncio.sleep(0.01)
        leaves.cancel()
        stays = asyncio.ensure_future(parts.get("a", make))
        await asyncio.sleep(0.01)
        may_go.set()
        return await stays

    assert asyncio.run(ask()).html == "x"
    assert make.calls == 1


def test_an_error_is_told_and_not_kept(parts):
    def fail():
        raise Conflict("they differ")

    async def ask():
        with pytest.raises(Conflict, match="they differ"):
            await parts.get("a", fail)
        return await parts.get("a", Maker("now"))

    assert asyncio.run(ask()).html == "now"


def test_too_many_are_told_to_come_again(parts):
    may_go = threading.Event()

    async def ask():
        waiting = [
            asyncio.ensure_future(parts.get(str(number), Maker(may_go=may_go)))
            for number in range(slow_parts._MOST_WAITING)
        ]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy) as told:
            await parts.get("one more", Maker())
        may_go.set()
        await asyncio.gather(*waiting)
        await parts.get("one more", Maker())
        return told.value.retry_after_s

    assert asyncio.run(ask()) > 0


def test_what_is_kept_is_bounded_and_the_last_asked_for_stays(parts, monkeypatch):
    monkeypatch.setattr(slow_parts, "_KEPT_CHARACTERS", 25)
    makers = {key: Maker("x" * 10) for key in "abc"}

    async def ask():
        for key in ("a", "b", "a", "c", "a", "b"):
            await parts.get(key, makers[key])

    asyncio.run(ask())
    assert {key: maker.calls for key, maker in makers.items()} == {"a": 1, "b": 2, "c": 1}
