"""What the embedder keeps of each recipe: its queue, what is known of it, its network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np

from featurestore.errors import UnstorableFeatures
from featurestore.recipe import Recipe
from featurestore.service.batcher import Image, Outcome, Phase, Queue
from featurestore.service.ladder import Ladder
from featurestore.service.lookup import Lookup

NETWORKS = 3
"""Networks kept in memory; those asked longest ago go first."""

_LANES = 16  # recipes whose stores stay open
_WINDOW = 64  # images kept decoded while the network is being built


class Lane:
    """One recipe.

    Attributes
    ----------
    asking
        Requests at work.
    decoded_turn, computed_turn
        When it was this recipe's turn last.
    batches
        Since a smaller batch size was tried.
    """

    def __init__(self, recipe: Recipe, lookup: Lookup) -> None:
        self.recipe = recipe
        self.fingerprint = recipe.fingerprint
        self.lookup = lookup
        self.queue = Queue()
        self.ladder: Ladder | None = None
        self.building = False
        self.asking = 0
        self.decoded_turn = self.computed_turn = 0
        self.batches = 0

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it."""
        return not self.asking and not self.queue.images and not self.building

    @property
    def window(self) -> int:
        """How many images are kept decoded ahead of the network."""
        return _WINDOW if self.ladder is None else 2 * self.ladder.most

    def finish(self, image: Image, outcome: Outcome) -> None:
        """Tell everyone who waits for an image what became of it."""
        for ask in self.queue.done(image):
            ask.tell(image, outcome)


class Lanes:
    """The recipes that were asked for, the one asked longest ago first; few are kept open."""

    def __init__(self, look_up: Callable[[Recipe], Lookup]) -> None:
        self._look_up = look_up
        self._lanes: OrderedDict[Recipe, Lane] = OrderedDict()
        self._turn = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def of(self, recipe: Recipe) -> Lane:
        """Return a recipe's lane, as the one asked last."""
        clean = recipe if recipe.augmentation is None else recipe.clean
        lane = self._lanes.get(clean)
        if lane is None:
            lane = self._lanes[clean] = Lane(clean, self._look_up(clean))
            self._drop_lane()
        self._lanes.move_to_end(clean)
        return lane

    def by_decoding(self) -> list[Lane]:
        """Return the lanes, the one whose turn to decode was longest ago first."""
        return sorted(self._lanes.values(), key=lambda lane: lane.decoded_turn)

    def by_computing(self) -> list[Lane]:
        """Return the lanes, the one whose turn to compute was longest ago first."""
        return sorted(self._lanes.values(), key=lambda lane: lane.computed_turn)

    def next_turn(self) -> int:
        """Return a number above every turn before."""
        self._turn += 1
        return self._turn

    def drop_networks(self) -> None:
        """Let go of networks beyond `NETWORKS` that nobody uses."""
        built = [lane for lane in self._lanes.values() if lane.ladder is not None]
        for lane in built[: max(0, len(built) - NETWORKS)]:
            if lane.idle:
                lane.ladder = None

    def close(self) -> None:
        """Let go of everything; nothing may be on its way."""
        for lane in self._lanes.values():
            lane.lookup.close()
        self._lanes.clear()

    def _drop_lane(self) -> None:
        newest = next(reversed(self._lanes.values()))
        idle = [lane for lane in self._lanes.values() if lane.idle and lane is not newest]
        if len(self._lanes) > _LANES and idle:
            del self._lanes[idle[0].recipe]
            idle[0].lookup.close()


def embed_batch(ladder: Ladder, images: list[Image]) -> dict[Image, Outcome]:
    """Send a batch through the network; an image that cannot be stored does not cost the others."""
    outcomes: dict[Image, Outcome] = {}
    left = images
    while left:
        try:
            rows = ladder.embed(np.stack([_pixels(image) for image in left]))
        except UnstorableFeatures as error:
            for row in error.rows:
                outcomes[left[row]] = error.of(f"image {left[row].digest.hex()[:12]}")
            left = [image for image in left if image not in outcomes]
        else:
            return outcomes | dict(zip(left, rows, strict=True))
    return outcomes


def _pixels(image: Image) -> np.ndarray:
    assert image.phase is Phase.COMPUTING and image.pixels is not None
    return image.pixels
