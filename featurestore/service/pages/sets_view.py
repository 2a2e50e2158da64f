"""Feature sets as their pages show them: the list, and all that is known of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import IntegrityError
from featurestore.service.pages import addresses
from featurestore.service.pages.words import Field, recipe_fields, recipe_text
from featurestore.service.samples import SampleIndex

_MOST_CLASSES = 200
_MOST_QUARANTINED = 200
_SAMPLED = 12


@dataclasses.dataclass(frozen=True)
class SetCard:
    """One feature set in the list; several store formats of one version are one card."""

    record: Record
    formats: tuple[str, ...]
    recipe: str
    total_rows: int

    @property
    def searched(self) -> str:
        """What the filter box looks in, in small letters."""
        record = self.record
        names = " ".join([record.name, record.fingerprint, *record.class_names[:50], self.recipe])
        return names.lower()


def set_cards(records: Sequence[Record], wanted: str) -> list[SetCard]:
    """Return the sets in which every word of `wanted` is found, in the order of `records`."""
    by_version: dict[str, list[Record]] = {}
    for record in records:
        by_version.setdefault(f"{record.name} {record.fingerprint}", []).append(record)
    cards = [
        SetCard(
            same[0],
            tuple(record.store_format for record in same),
            recipe_text(same[0].recipe),
            sum(same[0].rows.values()),
        )
        for same in by_version.values()
    ]
    words = wanted.lower().split()
    return [card for card in cards if all(word in card.searched for word in words)]


@dataclasses.dataclass(frozen=True)
class ClassCount:
    """How many rows of each split have a class; `share` is of the split's largest class."""

    name: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class SampledImage:
    """A photograph of the page."""

    address: str
    sample_id: str
    class_name: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in the store of a set: classes by split, and a few photographs.

    `problem` says why nothing is known of it.
    """

    classes: tuple[ClassCount, ...] = ()
    classes_left_out: int = 0
    photographs: tuple[SampledImage, ...] = ()
    problem: str | None = None


def read_contents(record: Record, samples: SampleIndex) -> Contents:
    """Return what the store of a set holds; a damaged one is told, and hides nothing else."""
    try:
        labels = {split: samples.read(record, split).labels for split in record.rows}
    except IntegrityError as error:
        return Contents(problem=error.message)
    n_classes = len(record.class_names)
    counts = {split: np.bincount(each, minlength=n_classes) for split, each in labels.items()}
    classes = tuple(
        ClassCount(
            name,
            tuple(int(counts[split][number]) for split in counts),
            tuple(float(counts[split][number] / counts[split].max()) for split in counts),
        )
        for number, name in enumerate(record.class_names[:_MOST_CLASSES])
    )
    return Contents(classes, max(0, n_classes - _MOST_CLASSES), _sampled(record, samples))


def _sampled(record: Record, samples: SampleIndex) -> tuple[SampledImage, ...]:
    """Return photographs spread evenly over the first split, whose rows are sorted by class."""
    split = next(iter(record.rows))
    found = samples.read(record, split)
    rows = np.unique(np.linspace(0, len(found.ids) - 1, _SAMPLED).astype(int))
    return tuple(
        SampledImage(
            addresses.row_image(record, split, int(row)),
            str(found.ids[row]),
            record.class_names[int(found.labels[row])],
        )
        for row in rows
    )


@dataclasses.dataclass(frozen=True)
class Command:
    """Something to copy into a terminal or a program, and what it does."""

    what: str
    text: str


@dataclasses.dataclass(frozen=True)
class SetView:
    """One version of a feature set, for its page."""

    record: Record
    newest: bool
    versions: tuple[Record, ...]
    formats: tuple[str, ...]
    recipe: str
    fields: tuple[Field, ...]
    quarantine_left_out: int
    provenance: tuple[tuple[str, str], ...]
    commands: tuple[Command, ...]


def set_view(record: Record, records: Sequence[Record], *, url: str) -> SetView:
    """Return what the page of a set says without opening its store.

    Parameters
    ----------
    records
        Every version of every set.
    url
        Of this service, as the browser reached it.
    """
    mine = [each for each in records if each.name == record.name]
    versions = {each.fingerprint: each for each in reversed(mine)}
    ordered = tuple(sorted(versions.values(), key=lambda each: -each.sequence))
    same = [each for each in mine if each.fingerprint == record.fingerprint]
    return SetView(
        record=record,
        newest=not ordered or ordered[0].fingerprint == record.fingerprint,
        versions=ordered,
        formats=tuple(each.store_format for each in same),
        recipe=recipe_text(record.recipe),
        fields=recipe_fields(record.recipe, record.feature_shape),
        quarantine_left_out=max(0, len(record.quarantine) - _MOST_QUARANTINED),
        provenance=_provenance(record.provenance),
        commands=_commands(record, url),
    )


def _provenance(fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Return the provenance as pairs of texts; what is within a field goes on behind its name."""
    found: list[tuple[str, str]] = []
    for name, value in fields.items():
        found += _flat(name.replace("_", " "), value)
    return tuple(found)


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, list) and len(value) > 1:
        return [
            pair for number, item in enumerate(value, 1) for pair in _flat(f"{name} {number}", item)
        ]
    return [(name, _text(value))]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            _text(item) if isinstance(item, Mapping) else f"{key} {item}"
            for key, item in value.items()
            if item is not None
        )
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _commands(record: Record, url: str) -> tuple[Command, ...]:
    name = record.name if _is_plain(record.name) else "'" + record.name.replace("'", "'\\''") + "'"
    found = [
        Command(
            "Copy it to this machine; training there needs no network then", f"fs pull {url} {name}"
        ),
        Command(
            "Train a head on the copy",
            f"fs train {name} --head logistic",
        ),
        Command(
            "Read it over the network, without a copy",
            f"import featurestore as fs\n\n"
            f"features = fs.connect({url!r}).open({record.name!r})\n"
            f"X, y = features[{next(iter(record.rows))!r}].load()",
        ),
    ]
    if record.store_format == "zarr":
        address = f"{url}{addresses.store_address(record)}"
        found.append(
            Command(
                "Open it with any Zarr library",
                f"import zarr\n\ngroup = zarr.open_group({address!r}, mode='r')",
            )
        )
    return tuple(found)


def _is_plain(name: str) -> bool:
    return all(
        character.isascii() and (character.isalnum() or character in "/._-+") for character in name
    )
