"""Feature sets and runs as the service tells of them: the shapes of its answers, and their making.

The shapes are strict, so making one also tells whether a record holds what it should.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from featurestore.catalogue import Record
from featurestore.errors import FeatureStoreError
from featurestore.service.outward import step_for_client, text_for_client
from featurestore.training.runs import RUN_FORMAT_VERSION, Run


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Problem(_Shape):
    """Something that cannot be read and is left out of a list."""

    detail: str
    next_step: str | None


class FeatureSetSummary(_Shape):
    """One committed feature set."""

    name: str = Field(description="dataset/recipe-name")
    fingerprint: str = Field(description="SHA-256 of its manifest under its recipe")
    store_format: str = Field(description="zarr or hdf5")
    rows: dict[str, int] = Field(description="Rows of each split")
    feature_shape: list[int] = Field(description="Of one row: (H, W, C) or (D,)")
    dtype: str = Field(description="Of the stored features: float16 or float32")
    class_names: list[str] = Field(description="Labels count into it from 0")
    recipe: dict[str, Any] = Field(description="Every field that decides a feature's value")
    recipe_name: str
    recipe_fingerprint: str
    views: int = Field(description="Augmented versions of each training image; 0: none")
    quarantined: int = Field(description="Images that could not be read, and have no row")
    stored_bytes: int
    committed_at: str = Field(description="ISO 8601, UTC")
    checksums_sha256: str = Field(description="SHA-256 of the list of its files' digests")
    store: str = Field(
        description="Path of the store: of its root for Zarr, of its one file for HDF5. With .json "
        "behind it that of its record, with .sha256 that of the list of its files' digests."
    )


class QuarantinedImage(_Shape):
    """An image that could not be read."""

    sample_id: str
    sha256: str | None
    reason: str


class Version(_Shape):
    """One committed version of a name, in one format."""

    fingerprint: str
    store_format: str
    committed_at: str
    stored_bytes: int
    store: str


class FeatureSetDetail(FeatureSetSummary):
    """Everything that the record of a feature set says."""

    sequence: int = Field(description="Of several versions of a name the largest is current")
    manifest_fingerprint: str
    source_fingerprint: str = Field(description="Of the dataset with its quarantined images")
    content_sha256: dict[str, str] = Field(
        description="SHA-256 of each split's features in row order, little-endian as stored"
    )
    quarantine: list[QuarantinedImage]
    provenance: dict[str, Any] = Field(description="Where it was computed, and by what")
    versions: list[Version] = Field(description="All committed versions of the name, newest first")


class FeatureSetList(_Shape):
    """A page of the feature sets."""

    feature_sets: list[FeatureSetSummary]
    total: int = Field(description="On all pages")
    problems: list[Problem] = Field(description="Records that cannot be read")


class RunSummary(_Shape):
    """One trained head or fine-tuned network."""

    id: str
    created: str = Field(description="ISO 8601, UTC")
    head: str
    settings: dict[str, Any]
    changed_settings: dict[str, Any] = Field(description="Those that are not at their defaults")
    seed: int
    shuffled_labels: bool = Field(description="A control, trained on permuted labels")
    path_taken: str = Field(description="cached, end-to-end or fine-tune")
    augmentation: dict[str, Any] | None
    started_from: str | None = Field(description="The run that a fine-tuning started from")
    feature_set: str = Field(description="Name of the feature set that it was trained on")
    fingerprint: str = Field(description="Of that feature set")
    comparable: str = Field(description="Runs that have the same may be compared")
    class_names: list[str]
    metrics: dict[str, dict[str, float | None] | None] = Field(description="By split")
    fit_seconds: float
    predict_seconds_per_row: float | None


class RunList(_Shape):
    """A page of the runs, newest first."""

    runs: list[RunSummary]
    total: int = Field(description="On all pages")
    problems: list[Problem] = Field(description="Runs that cannot be read")


class TrainedOnDetail(_Shape):
    """The feature set that a run was trained on."""

    name: str
    fingerprint: str
    manifest_fingerprint: str
    recipe_fingerprint: str
    recipe: dict[str, Any]
    class_names: list[str]
    feature_shape: list[int]
    rows: dict[str, int]
    comparable: str


class RunDetail(_Shape):
    """Everything that the record of a run says."""

    id: str
    created: str = Field(description="ISO 8601, UTC")
    head: str
    settings: dict[str, Any]
    seed: int
    shuffled_labels: bool
    path_taken: str = Field(description="cached, end-to-end or fine-tune")
    augmentation: dict[str, Any] | None
    started_from: str | None
    parameters: dict[str, int] = Field(description="Of a fine-tuning: numbers of weights by name")
    features: TrainedOnDetail
    metrics: dict[str, dict[str, float | None] | None] = Field(description="By split")
    history: dict[str, list[float]] = Field(description="One number for each epoch, by curve")
    chosen: dict[str, Any] = Field(description="What the fit chose by itself")
    notes: list[str] = Field(description="What a reader of the metrics must be told")
    versions: dict[str, str]
    seconds: dict[str, float]
    files: dict[str, str] = Field(description="SHA-256 of every file of the run but its record")
    format_version: int


def store_url(record: Record) -> str:
    """Return the path under which a store is served; what is in it lies below."""
    return f"/v1/feature-sets/{quote(record.name)}/store/{quote(record.store.name)}"


def summary(record: Record) -> FeatureSetSummary:
    """Return what a list says of a feature set.

    Raises
    ------
    ValueError, TypeError
        The record holds other kinds of values than it should.
    """
    return FeatureSetSummary(**_summary_fields(record))


def detail(record: Record, *, versions: Sequence[Record]) -> FeatureSetDetail:
    """Return all that is said of a feature set; raises as `summary`."""
    return FeatureSetDetail(
        **_summary_fields(record),
        sequence=record.sequence,
        manifest_fingerprint=record.manifest_fingerprint,
        source_fingerprint=record.source_fingerprint,
        content_sha256=dict(record.content_sha256),
        quarantine=[QuarantinedImage(**dataclasses.asdict(image)) for image in record.quarantine],
        provenance=dict(record.provenance),
        versions=[
            Version(
                fingerprint=version.fingerprint,
                store_format=version.store_format,
                committed_at=version.committed_at,
                stored_bytes=version.stored_bytes,
                store=store_url(version),
            )
            for version in sorted(versions, key=lambda each: -each.sequence)
        ],
    )


def require_showable(record: Record) -> None:
    """Raise ValueError or TypeError for a record that no answer could be made of."""
    detail(record, versions=[record]).model_dump_json()


def run_summary(run: Run) -> RunSummary:
    """Return what a list says of a run."""
    return RunSummary(
        id=run.id,
        created=run.created,
        head=run.head,
        settings=run.settings.to_dict(),
        changed_settings=run.changed_settings(),
        seed=run.seed,
        shuffled_labels=run.shuffled_labels,
        path_taken=run.path_taken,
        augmentation=None if run.augmentation is None else dict(run.augmentation),
        started_from=run.started_from,
        feature_set=run.features.name,
        fingerprint=run.features.fingerprint,
        comparable=run.features.comparable,
        class_names=list(run.features.class_names),
        metrics=_metrics(run),
        fit_seconds=run.seconds["fit"],
        predict_seconds_per_row=run.seconds.get("predict_per_row"),
    )


def run_detail(run: Run) -> RunDetail:
    """Return all that the record of a run says."""
    features = dataclasses.asdict(run.features)
    features |= {name: list(features[name]) for name in ("class_names", "feature_shape")}
    return RunDetail(
        id=run.id,
        created=run.created,
        head=run.head,
        settings=run.settings.to_dict(),
        seed=run.seed,
        shuffled_labels=run.shuffled_labels,
        path_taken=run.path_taken,
        augmentation=None if run.augmentation is None else dict(run.augmentation),
        started_from=run.started_from,
        parameters=dict(run.parameters),
        features=TrainedOnDetail(**features),
        metrics=_metrics(run),
        history={name: list(values) for name, values in run.history.items()},
        chosen=dict(run.chosen),
        notes=list(run.notes),
        versions=dict(run.versions),
        seconds=dict(run.seconds),
        files=dict(run.files),
        format_version=RUN_FORMAT_VERSION,
    )


def require_showable_run(run: Run) -> None:
    """Raise ValueError or TypeError for a run that no answer could be made of."""
    run_summary(run).model_dump_json()
    run_detail(run).model_dump_json()


def problems(errors: Sequence[FeatureStoreError], *, cache: Path) -> list[Problem]:
    """Return errors as a list says them."""
    return [
        Problem(
            detail=text_for_client(error.message, cache),
            next_step=step_for_client(error.next_step),
        )
        for error in errors
    ]


def _metrics(run: Run) -> dict[str, dict[str, float | None] | None]:
    return {
        split: None if scores is None else dict(scores) for split, scores in run.metrics.items()
    }


def _summary_fields(record: Record) -> dict[str, Any]:
    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "store_format": record.store_format,
        "rows": dict(record.rows),
        "feature_shape": list(record.feature_shape),
        "dtype": record.recipe.dtype,
        "class_names": list(record.class_names),
        "recipe": record.recipe.to_dict(),
        "recipe_name": record.recipe.name,
        "recipe_fingerprint": record.recipe.fingerprint,
        "views": record.views,
        "quarantined": len(record.quarantine),
        "stored_bytes": record.stored_bytes,
        "committed_at": record.committed_at,
        "checksums_sha256": record.checksums_sha256,
        "store": store_url(record),
    }
