"""Embedding a dataset: find what exists, compute the rest, commit."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from featurestore.catalogue import (
    Catalogue,
    Quarantined,
    Record,
    dataset_name,
    lock_path,
    set_fingerprint,
    sibling_staging,
    staging_path,
)
from featurestore.datasets import ScanOptions, build_manifest, scan_dataset
from featurestore.embedding.backbone import BackboneChoice, ChoosesBackbone
from featurestore.embedding.commit import Commit, commit_set, relist
from featurestore.embedding.execute import Computed, Execution
from featurestore.embedding.plan import VIEWED, Plan, plan_embedding, wanted_keys
from featurestore.embedding.provenance import computed_on, found_again
from featurestore.embedding.quarantine import first_reasons, refuse_unreadable
from featurestore.embedding.refusals import (
    check_compression,
    refuse_no_images_to_view,
    refuse_other_dataset,
    storage_errors,
)
from featurestore.embedding.rows import Rows, StagedRows, existing_rows
from featurestore.embedding.settings import EmbedResult, EmbedSettings, Progress, Silent
from featurestore.errors import InvalidInput
from featurestore.locks import hold
from featurestore.manifest import Manifest
from featurestore.names import as_unicode
from featurestore.recipe import Recipe
from featurestore.state import StateFile
from featurestore.stores.staging import Staging


def embed(
    dataset: Path | str,
    settings: EmbedSettings | None = None,
    *,
    cache: Path | str = "cache",
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
    choose: Callable[[EmbedSettings], ChoosesBackbone] = BackboneChoice,
) -> EmbedResult:
    """Embed a dataset into a cache; the same as ``fs embed``.

    What exists is reused, what is missing is computed, and the feature set becomes visible when it
    is whole. Killed at any moment, the next call goes on from the last staged unit of 256 rows.

    With ``settings.views``, as many augmented versions of every training image are embedded beside
    it. More of them later compute only the new ones.

    Parameters
    ----------
    dataset
        A folder of splits of class folders, a folder of class folders (with ``settings.split``), or
        a CSV or Parquet manifest.

    Raises
    ------
    InvalidInput
        The dataset, the settings or the weights cannot be used; with ``strict``, an image.
    Conflict
        Another process writes the same set, an image changed while it was read, the disk is full,
        or the cache is of a newer version.
    IntegrityError
        Stored bytes are damaged.
    """
    settings = settings or EmbedSettings()
    with storage_errors(Path(cache)):
        run = _Embedding(
            dataset=Path(dataset),
            settings=settings,
            cache=Path(cache),
            progress=progress or Silent(),
            clock=clock,
            choose=choose,
        )
        return run.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """One dataset under one recipe, its lock held. `lost` are the samples that were not read."""

    name: str
    recipe: Recipe
    manifest: Manifest
    lost: tuple[Quarantined, ...]
    records: list[Record]
    staging: Staging

    @property
    def clean_name(self) -> str:
        """See `Record.clean_name`."""
        return f"{self.name.partition('/')[0]}/{self.recipe.clean.name}"


@dataclasses.dataclass(kw_only=True)
class _Embedding:
    dataset: Path
    settings: EmbedSettings
    cache: Path
    progress: Progress
    clock: Callable[[], float]
    choose: Callable[[EmbedSettings], ChoosesBackbone]

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.catalogue = Catalogue(self.cache)

    def run(self) -> EmbedResult:
        settings, catalogue = self.settings, self.catalogue
        choice = self.choose(settings)
        dataset = dataset_name(settings.name or self._given_name())
        options = ScanOptions(split=settings.split, seed=settings.seed)
        scan = scan_dataset(self.dataset, options=options)
        check_compression(settings)
        if settings.dry_run:
            catalogue.check_version()
        else:
            catalogue.create()
        with ExitStack() as stack:
            state = stack.enter_context(self._state())
            recipe = dataclasses.replace(
                choice.recipe(state, dataset=dataset, records=catalogue.records()),
                augmentation=settings.drawn_views(),
            )
            name = f"{dataset}/{recipe.name}"
            if not settings.dry_run:
                self.progress.phase(f"waiting for the lock of {name}")
                stack.enter_context(
                    hold(
                        lock_path(self.cache, name),
                        subject=f"feature set {name}",
                        wait=settings.wait,
                        since=self._now(),
                    )
                )
                # Whoever held it may have taken hours: what the dataset is counts from here.
                scan = scan_dataset(self.dataset, options=options)
            self.progress.phase(f"reading {self.dataset}")
            built = build_manifest(scan, state=state, workers=self._workers)
            lost = tuple(
                Quarantined(entry.sample_id, entry.sha256, entry.reason)
                for entry in built.unreadable
            )
            self._strict(lost)
            refuse_no_images_to_view(self.dataset, recipe, built.manifest)
            work = _Work(
                name=name,
                recipe=recipe,
                manifest=built.manifest,
                lost=lost,
                records=catalogue.records(),
                staging=Staging(staging_path(self.cache, name, recipe)),
            )
            committed = self._committed(work)
            if committed is not None:
                result = self._unchanged(work, committed, choice)
            else:
                with ExitStack() as readers:
                    result = self._compute(work, choice, readers)
            if not settings.dry_run:
                work.staging.clear()
            return result

    def _compute(self, work: _Work, choice: ChoosesBackbone, readers: ExitStack) -> EmbedResult:
        manifest = work.manifest
        sibling = Staging(sibling_staging(self.cache, work.name, work.recipe))
        if not self.settings.dry_run and sibling.path.is_dir():
            self.progress.phase("checking what a stopped embedding has left")
            work.staging.adopt(sibling)
        # A dry run holds no lock: what looks like a leftover may be another process's next shard.
        sources, known = existing_rows(
            work.staging,
            work.records,
            work.recipe,
            readers=readers,
            remove_leftovers=not self.settings.dry_run,
        )
        if self.settings.dry_run:
            sources += map(StagedRows, sibling.shards(remove_leftovers=False))
        rows = Rows(sources)
        plan = self._plan(work, rows, known)
        self._strict(plan.quarantined)
        siblings = [each for each in work.records if each.clean_name == work.clean_name]
        refuse_other_dataset(self.dataset, work.manifest, siblings, sources)
        if self.settings.dry_run:
            return self._dry(work, plan)
        computed = Computed()
        if plan.units:
            computed = self._execute(work, plan, choice)
            sources, known = existing_rows(work.staging, work.records, work.recipe, readers=readers)
            rows = Rows(sources)
            plan = self._plan(work, rows, known)
        quarantine = work.lost + plan.quarantined
        whole = manifest.without({entry.sha256 for entry in quarantine if entry.sha256})
        if not whole.splits:
            raise InvalidInput(
                f"dataset {self.dataset}: none of its {len(quarantine)} files is a readable image"
                f"{first_reasons(quarantine)}",
                next_step="check that the folder holds JPEG, PNG, WebP, BMP, GIF or TIFF images",
            )
        refuse_no_images_to_view(self.dataset, work.recipe, whole, quarantine)
        whole = whole.only_classes_with_rows()
        self.progress.phase("committing")
        record = commit_set(
            Commit(
                name=work.name,
                manifest=whole,
                source_fingerprint=manifest.fingerprint,
                recipe=work.recipe,
                store_format=self.settings.store,
                compression=self.settings.compression,
                quarantine=quarantine,
                provenance={
                    **self._origin(choice),
                    "computed_on": computed_on(
                        _all_keys(whole, work.recipe), sources, device=choice.device
                    ),
                },
                sequence=self.catalogue.next_sequence(),
                committed_at=self._now(),
            ),
            rows,
            root=self.cache,
        )
        return self._result(record, computed)

    def _plan(self, work: _Work, rows: Rows, known: Mapping[str, str]) -> Plan:
        return plan_embedding(
            work.manifest,
            available=rows.digests,
            quarantined=known,
            views=work.recipe.augmentation,
        )

    def _execute(self, work: _Work, plan: Plan, choice: ChoosesBackbone) -> Computed:
        self.progress.phase(f"loading {work.recipe.backbone}")
        network = choice.network(work.recipe)
        self.progress.planned(
            name=work.name,
            to_compute=plan.to_compute + plan.views_to_compute,
            reused=plan.reused + plan.views_reused,
        )
        execution = Execution(
            dataset=self.dataset,
            recipe=work.recipe,
            staging=work.staging,
            workers=self._workers,
            strict=self.settings.strict,
            progress=self.progress,
        )
        return execution.run(plan, network)

    @property
    def _workers(self) -> int:
        return self.settings.workers or os.cpu_count() or 1

    def _given_name(self) -> str:
        resolved = self.dataset.resolve()
        return resolved.stem if resolved.is_file() else resolved.name

    @contextmanager
    def _state(self) -> Iterator[StateFile | None]:
        """Open the memo of digests; a dry run makes none, and does without in a read-only cache."""
        path = self.cache / ".state.sqlite"
        if self.settings.dry_run and not (path.exists() and os.access(self.cache, os.W_OK)):
            yield None
            return
        with StateFile(path, clock=self.clock) as state:
            yield state

    def _now(self) -> str:
        return datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds")

    def _strict(self, quarantined: tuple[Quarantined, ...]) -> None:
        if self.settings.strict:
            refuse_unreadable(quarantined)

    def _committed(self, work: _Work) -> Record | None:
        """Return the set that holds this dataset under this recipe already, or more views of it.

        A version with fewer views would become the current one, and `fs gc` remove the other.
        """
        for record in work.records:
            unread = tuple(entry for entry in record.quarantine if entry.sha256 is None)
            if (
                record.name == work.name
                and record.store_format == self.settings.store
                and record.source_fingerprint == work.manifest.fingerprint
                and record.recipe.clean == work.recipe.clean
                and record.recipe.views_as(work.recipe) == _count(work.recipe)
                and unread == work.lost
                and record.store.exists()
            ):
                return record
        return None

    def _unchanged(self, work: _Work, record: Record, choice: ChoosesBackbone) -> EmbedResult:
        self._strict(record.quarantine)
        newest = max(r.sequence for r in work.records if r.name == record.name)
        provenance = found_again(record.provenance, self._origin(choice))
        changed = record.sequence < newest or provenance != record.provenance
        if changed and not self.settings.dry_run:
            # The dataset is again what an older version holds, or was moved.
            record = relist(
                record,
                source_fingerprint=record.source_fingerprint,
                quarantine=record.quarantine,
                sequence=(
                    self.catalogue.next_sequence() if record.sequence < newest else record.sequence
                ),
                provenance=provenance,
            )
        return self._result(record, Computed())

    def _origin(self, choice: ChoosesBackbone) -> dict[str, object]:
        return {
            "source": as_unicode(str(self.dataset.resolve())),
            "weights": choice.weights_label,
            "split": self.settings.split,
            "seed": self.settings.seed if self.settings.split else None,
        }

    def _result(self, record: Record, computed: Computed) -> EmbedResult:
        return EmbedResult(
            feature_set=record.name,
            fingerprint=record.fingerprint,
            path=record.store,
            rows=record.rows,
            computed=computed.images,
            reused=sum(record.rows.values()) - computed.images,
            views_computed=computed.views,
            views=record.views,
            views_reused=record.rows.get(VIEWED, 0) * record.views - computed.views,
            quarantined=record.quarantine,
            seconds=round(time.monotonic() - self.started, 3),
            images_per_s=computed.images_per_s,
            dry_run=self.settings.dry_run,
        )

    def _dry(self, work: _Work, plan: Plan) -> EmbedResult:
        whole = work.manifest.without({e.sha256 for e in plan.quarantined if e.sha256})
        return EmbedResult(
            feature_set=work.name,
            fingerprint=set_fingerprint(whole.fingerprint, work.recipe),
            path=None,
            rows=whole.rows,
            computed=plan.to_compute,
            reused=plan.reused + plan.repeated,
            views=_count(work.recipe),
            views_computed=plan.views_to_compute,
            views_reused=plan.views_reused + plan.views_repeated,
            quarantined=work.lost + plan.quarantined,
            seconds=round(time.monotonic() - self.started, 3),
            images_per_s=0.0,
            dry_run=True,
        )


def _count(recipe: Recipe) -> int:
    return 0 if recipe.augmentation is None else recipe.augmentation.count


def _all_keys(manifest: Manifest, recipe: Recipe) -> np.ndarray:
    return np.concatenate(
        [
            keys
            for split, part in manifest.splits.items()
            for keys in wanted_keys(split, part.sha256, recipe.augmentation)
        ]
    )
