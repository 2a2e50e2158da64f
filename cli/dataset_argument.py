"""What DATASET means to `fs train`: a feature set, a folder to embed, or where images lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from featurestore.catalogue import Catalogue, Record
from featurestore.errors import Conflict, InvalidInput, NotFound
from featurestore.source_images import holds_images
from featurestore.state import StateFile
from featurestore.training.runs import Run
from featurestore_cli.output import say


@dataclasses.dataclass(frozen=True)
class Meant:
    """A feature set that is taken as it is; or, if `changed`, that its folder is embedded again.

    Neither: a folder is embedded as the options say.
    """

    record: Record | None = None
    changed: bool = False


@dataclasses.dataclass(frozen=True)
class StartImages:
    """What DATASET adds to the run that a fine-tuning starts from.

    Parameters
    ----------
    images
        Where the run's images lie; None: where they lay.
    features
        Fingerprint of the set that was named; None if none was.
    """

    images: Path | None
    features: str | None = None


def is_path(asked: str | None) -> bool:
    """Return whether DATASET is a folder or file that is there."""
    return asked is not None and Path(asked).exists()


def meant_by(asked: str, *, cache: Path, with_views: bool) -> Meant:
    """Return the feature set that is meant, if it is one; a path may be one's dataset too.

    Where a folder of that name lies as well, the beginning of a name does not do, and the set is
    taken only while the folder has its images and no others.

    Raises
    ------
    InvalidInput
        Several sets are meant.
    NotFound
        Nothing is of that name.
    Conflict
        A set and a folder are meant that have nothing to do with each other.
    """
    catalogue = Catalogue(cache)
    if not is_path(asked):
        return Meant(catalogue.find(asked, with_views=with_views))
    if not any(asked in (record.name, record.dataset) for record in catalogue.records()):
        return Meant()
    record = catalogue.find(asked, with_views=with_views)
    if _holds(Path(asked), record, cache):
        return Meant(record)
    if str(Path(asked).resolve()) == str(record.provenance.get("source")):
        return Meant(record, changed=True)
    raise Conflict(
        f"{asked} is a dataset of cache {cache} and a folder here that has other images",
        next_step=f"say which: the set is {record.name}, the folder is ./{asked} --name NAME",
    )


def start_images(
    asked: str | None, start: Run, *, cache: Path, images: Path | None, with_views: bool
) -> StartImages:
    """Return what DATASET says of the images of the run that a fine-tuning starts from.

    A folder says where they lie, and must have them and no others; a name is that of their dataset,
    or of a set of them.

    Raises
    ------
    InvalidInput
        It means other images.
    NotFound
        Nothing is of that name.
    """
    dataset = start.features.name.partition("/")[0]
    if asked is None:
        return StartImages(images)
    of_start = asked == dataset or (
        asked.startswith(f"{dataset}/") and start.features.name.startswith(asked)
    )
    if is_path(asked) and not of_start and images is not None:
        raise click.UsageError("--images: DATASET is a path, which says where the images lie")
    if is_path(asked) and images is None:
        if (record := _record_of(start, cache)) is None or _holds(Path(asked), record, cache):
            return StartImages(Path(asked))
        if not of_start:
            raise _others(asked, start)
        say(
            f"note: {asked} has other images by now: the run's are taken, from where they were "
            "embedded"
        )
    if of_start:  # which of its sets is left to the layer and the views that are asked for
        return StartImages(images)
    record = Catalogue(cache).find(asked, with_views=with_views)
    if record.manifest_fingerprint != start.features.manifest_fingerprint:
        raise _others(asked, start)
    return StartImages(images, record.fingerprint)


def _others(asked: str, start: Run) -> InvalidInput:
    return InvalidInput(
        f"run {start.id} was trained on the images of {start.features.name}, "
        f"and {asked} has others",
        next_step="leave DATASET out, or start from a run on it",
    )


def _record_of(start: Run, cache: Path) -> Record | None:
    try:
        return Catalogue(cache).find(start.features.fingerprint)
    except NotFound:
        return None  # that it is gone is said by the fine-tuning


def _holds(dataset: Path, record: Record, cache: Path) -> bool:
    with StateFile(cache / ".state.sqlite") as state:
        return holds_images(dataset, record, state=state)
