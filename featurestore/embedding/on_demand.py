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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from featurestore.backbones.weights import parse_weights
from featurestore.catalogue import Catalogue
from featurestore.datasets import hash_all
from featurestore.embedding.backbone import network_of
from featurestore.embedding.plan import UNIT_BYTES, UNIT_ROWS, digest_keys
from featurestore.embedding.rows import Rows, committed_rows
from featurestore.errors import Conflict, FeatureStoreError, InvalidInput, NotFound
from featurestore.executors.contract import DecodeSettings, EmbedsBatches, Unit
from featurestore.executors.local import LocalExecutor
from featurestore.images import DECODER
from featurestore.online import DEFAULT_ONLINE_BYTES, ONLINE, Found, OnlineCache, Refusal
from featurestore.recipe import Recipe
from featurestore.state import HashedFile

Origin = Literal["feature set", "online cache", "computed"]


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
        self._records = [
            record for record in Catalogue(cache).records() if record.recipe.clean == self.recipe
        ]
        self._open = ExitStack()
        sources, reasons = committed_rows(self._records, self.recipe, readers=self._open)
        self._stored = Rows(sources)
        self._keys = np.unique(digest_keys(self._stored.digests))
        self._refused = {bytes.fromhex(digest): reason for digest, reason in reasons.items()}
        self._online: OnlineCache | None = None
        if options.online_bytes:
            self._online = self._open.enter_context(
                OnlineCache(cache / ONLINE, max_bytes=options.online_bytes, say=options.say)
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
        if not digests:
            return {}
        found: dict[bytes, tuple[Found, Origin]] = {}
        wanted = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        stored = wanted[np.isin(digest_keys(wanted), self._keys)] if len(self._keys) else wanted[:0]
        if len(stored):
            rows = self._stored.gather(stored)
            for digest, features in zip(stored, rows, strict=True):
                found[digest.tobytes()] = features, "feature set"
        for digest in digests:
            if digest in self._refused:
                found[digest] = Refusal(self._refused[digest]), "feature set"
        if self._online is not None:
            unknown = [digest for digest in digests if digest not in found]
            with _online_errors():
                known = self._online.get(self.recipe.fingerprint, unknown)
            found |= {digest: (each, "online cache") for digest, each in known.items()}
        return found

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
            if self.recipe.decoder != DECODER:
                raise Conflict(
                    f"recipe {self.recipe.name} decodes images by the rule {self.recipe.decoder}, "
                    f"this version by {DECODER}",
                    next_step="use the version of featurestore that embedded it, or embed again",
                )
            if self.options.network is not None:
                self._network = self.options.network(self.recipe)
            else:
                self._network = network_of(
                    self.recipe, weights=self._weights(), batch_size=self.options.batch_size
                )
        return self._network

    def _weights(self) -> str:
        """Return where the weights are: as told, or as a set's provenance says and still holds."""
        if self.options.weights is not None:
            return self.options.weights
        told = [
            str(record.provenance["weights"])
            for record in sorted(self._records, key=lambda record: -record.sequence)
            if "weights" in record.provenance
        ]
        labels = dict.fromkeys([*told, *self.options.other_weights])
        trouble = "no feature set of this recipe is in the cache to say where its weights are"
        for label in labels:
            try:
                parse_weights(label)
            except FeatureStoreError as error:
                trouble = error.message
            else:
                return label
        raise NotFound(
            f"an image must be computed under recipe {self.recipe.name}: {trouble}",
            next_step="name the weights with --weights",
        )


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
        with _online_errors():
            self._online.put(self._recipe, fresh)
        return self._online.path


@contextmanager
def _online_errors() -> Iterator[None]:
    """Say how to do without the online cache where it cannot be used."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"the online cache cannot be used: {error}",
            next_step="make the cache writable, or do without: --online-bytes 0",
        ) from error
