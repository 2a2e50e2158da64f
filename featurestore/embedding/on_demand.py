"""Features of images that are named one by one: looked up, and computed only where unknown.

An image is its bytes. Their digest is looked up in every committed set of the recipe, then in the
online cache; what neither has goes through the network and into the online cache. So the features
are those of `fs embed`, and the second call for the same bytes builds no network.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from featurestore.catalogue import Catalogue
from featurestore.datasets import hash_all
from featurestore.embedding.backbone import network_of
from featurestore.embedding.known import (
    KnownFeatures,
    Origin,
    check_decoder,
    online_errors,
    weights_label,
)
from featurestore.embedding.plan import UNIT_BYTES, UNIT_ROWS
from featurestore.executors.contract import DecodeSettings, EmbedsBatches, Unit
from featurestore.executors.local import LocalExecutor
from featurestore.online import DEFAULT_ONLINE_BYTES, ONLINE, Found, OnlineCache, Refusal
from featurestore.recipe import Recipe
from featurestore.state import HashedFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnDemandOptions:
    """How features are come by; none of it is identity.

    Parameters
    ----------
    weights
        As on the command line; None: those that a feature set of the recipe was embedded with.
    other_weights
        Where weights may be that no feature set of the recipe tells of, in the order to try.
    batch_size
        None is what suits the device.
    workers
        Threads that hash and decode; None is one for each processor.
    online_bytes
        Bound of the online cache; 0 neither reads nor writes it.
    network
        Builds the network instead of `network_of`.
    say
        Told when a damaged online cache is begun anew.
    """

    weights: str | None = None
    other_weights: tuple[str, ...] = ()
    batch_size: int | None = None
    workers: int | None = None
    online_bytes: int = DEFAULT_ONLINE_BYTES
    network: Callable[[Recipe], EmbedsBatches] | None = None
    say: Callable[[str], None] = lambda message: None


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """What became of one image.

    Parameters
    ----------
    sha256
        Hexadecimal; None where the bytes could not be read.
    features
        One row, (*feature_shape) of the recipe's stored type; None where `reason` says why.
    origin
        Where features or reason came from; None where the bytes could not be read.
    """

    path: Path
    sha256: str | None
    features: np.ndarray | None
    reason: str | None
    origin: Origin | None


class OnDemand:
    """The features of images under one recipe. One caller at a time; close it after use.

    Views in a recipe change nothing here: an image is looked up, and embedded, as it is.

    Opening reads the digests of the committed sets of the recipe, once: 32 bytes a row.

    Parameters
    ----------
    feature_shape
        Of one row under the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        cache: Path,
        feature_shape: tuple[int, ...],
        options: OnDemandOptions = OnDemandOptions(),  # frozen
    ) -> None:
        self.recipe = recipe.clean
        self.options = options
        row_bytes = math.prod(feature_shape) * np.dtype(recipe.dtype).itemsize
        # As many images as one unit of an embedding has: their features are in memory at once.
        self.block_rows = max(1, min(UNIT_ROWS, UNIT_BYTES // row_bytes))
        self._workers = options.workers or os.cpu_count() or 1
        self._open = ExitStack()
        self._online: OnlineCache | None = None
        if options.online_bytes:
            self._online = self._open.enter_context(
                OnlineCache(cache / ONLINE, max_bytes=options.online_bytes, say=options.say)
            )
        self._known = self._open.enter_context(
            closing(
                KnownFeatures(self.recipe, records=Catalogue(cache).records(), online=self._online)
            )
        )
        self._network: EmbedsBatches | None = None

    def __enter__(self) -> OnDemand:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of stores and the online cache."""
        self._open.close()

    def embed(self, paths: Iterable[Path]) -> Iterator[list[Embedded]]:
        """Yield what became of each file, in order, in blocks of up to `block_rows`.

        Memory holds one block. A file that cannot be read or decoded has a reason instead of
        features. What was computed is in the online cache before its block is given.

        Raises
        ------
        NotFound
            An image must be computed, and nothing says where the weights are.
        Conflict
            The weights are not those of the recipe, this version decodes images by another rule, or
            a file kept changing while it was read.
        InvalidInput
            The online cache cannot be written, or the stored type cannot hold a feature.
        IntegrityError
            A committed set's bytes are damaged.
        """
        rest = iter(paths)
        while block := list(itertools.islice(rest, self.block_rows)):
            yield self._embed_block(block)

    def find(self, digests: Sequence[bytes]) -> dict[bytes, tuple[Found, Origin]]:
        """Return what is known of digests (32 bytes each) without computing."""
        return self._known.find(digests)

    def _embed_block(self, paths: list[Path]) -> list[Embedded]:
        hashed = list(hash_all([str(path) for path in paths], self._workers))
        first: dict[bytes, Path] = {}
        for path, each in zip(paths, hashed, strict=True):
            if isinstance(each, HashedFile):
                first.setdefault(each.sha256, path)
        found = self.find(list(first))
        missing = {digest: path for digest, path in first.items() if digest not in found}
        changed: dict[bytes, str] = {}
        if missing:
            computed, changed = self._compute(missing)
            found |= {digest: (each, "computed") for digest, each in computed.items()}
        return [
            _outcome(path, each, found, changed) for path, each in zip(paths, hashed, strict=True)
        ]

    def _compute(self, missing: dict[bytes, Path]) -> tuple[dict[bytes, Found], dict[bytes, str]]:
        """Return what came of each digest, and what was found instead of the bytes it names."""
        unit = Unit(
            digests=np.frombuffer(b"".join(missing), np.uint8).reshape(-1, 32),
            paths=tuple(missing.values()),
            sample_ids=tuple(map(str, missing.values())),
        )
        kept = _Kept(self.recipe.fingerprint, self._online)
        changed: dict[str, str] = {}
        outcomes = LocalExecutor(workers=self._workers).run(
            [unit],
            network=self._built(),
            decode=DecodeSettings(size=self.recipe.size, interpolation=self.recipe.interpolation),
            staging=kept,
        )
        for outcome in outcomes:
            changed.update(outcome.changed)
        return kept.found, {
            digest: changed[str(path)] for digest, path in missing.items() if str(path) in changed
        }

    def _built(self) -> EmbedsBatches:
        if self._network is None:
            check_decoder(self.recipe)
            if self.options.network is not None:
                self._network = self.options.network(self.recipe)
            else:
                self._network = network_of(
                    self.recipe, weights=self._weights(), batch_size=self.options.batch_size
                )
        return self._network

    def _weights(self) -> str:
        if self.options.weights is not None:
            return self.options.weights
        return weights_label(self.recipe, self._known.records, others=self.options.other_weights)


def _outcome(
    path: Path,
    hashed: HashedFile | str,
    found: Mapping[bytes, tuple[Found, Origin]],
    changed: Mapping[bytes, str],
) -> Embedded:
    if isinstance(hashed, str):
        return Embedded(path, None, None, hashed, None)
    if hashed.sha256 in changed:
        reason = f"it changed while it was read: {changed[hashed.sha256]}"
        return Embedded(path, None, None, reason, None)
    outcome, origin = found[hashed.sha256]
    digest = hashed.sha256.hex()
    if isinstance(outcome, Refusal):
        return Embedded(path, digest, None, outcome.reason, origin)
    return Embedded(path, digest, outcome, None, origin)


class _Kept:
    """Where the executor puts its results: in memory for this block, in the online cache for later.

    It is no staging: a kill before `put` ends loses the images of one block.
    """

    def __init__(self, recipe: str, online: OnlineCache | None) -> None:
        self.found: dict[bytes, Found] = {}
        self._recipe = recipe
        self._online = online

    def put(
        self, *, digests: np.ndarray, features: np.ndarray, quarantined: Mapping[str, str]
    ) -> Path:
        """See `StagesShards`."""
        fresh: dict[bytes, Found] = {
            digest.tobytes(): row for digest, row in zip(digests, features, strict=True)
        }
        fresh |= {bytes.fromhex(digest): Refusal(why) for digest, why in quarantined.items()}
        self.found |= fresh
        if self._online is None:
            return Path()
        with online_errors():
            self._online.put(self._recipe, fresh)
        return self._online.path
