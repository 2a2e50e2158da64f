"""What a scan finds, and the checks that every layout shares."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featurestore.errors import InvalidInput

# Names that mean a split, in any case; Keras, PyTorch and Hugging Face folders use all of these.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
LAYOUTS = """A dataset is one of
  a folder of splits:   DATASET/train/cats/1.jpg, DATASET/validation/cats/2.jpg, DATASET/test/...
  a folder of classes:  DATASET/cats/1.jpg, with --split 0.7,0.15,0.15 (and --seed)
  a .csv or .parquet file with the columns path, label and split"""


class Entry(NamedTuple):
    """One sample that a dataset lists; `sample_id` is NFC, `path` is as the file system has it."""

    sample_id: str
    path: str
    label: str
    split: str


class Unreadable(NamedTuple):
    """One sample whose bytes could not be had, and why; `sha256` is None then."""

    sample_id: str
    reason: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a dataset lists, before any image is read.

    Parameters
    ----------
    root
        The folder, or the folder of the manifest file.
    class_names
        Sorted by code points; two or more.
    entries
        Sorted by sample id; sample ids are unique.
    unreadable
        Samples that cannot even be named or are no files.
    """

    root: Path
    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of `entries`, in their order."""
        return tuple(entry.sample_id for entry in self.entries)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The absolute paths of `entries`, in their order."""
        return tuple(Path(entry.path) for entry in self.entries)


def some_of(names: Sequence[str], *, most: int = 5) -> str:
    """Return up to `most` names and how many more there are, for a message."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def checked_scan(
    root: Path,
    class_names: Sequence[str],
    *,
    entries: Sequence[Entry],
    unreadable: Sequence[Unreadable] = (),
) -> Scan:
    """Return the scan in its order.

    Raises
    ------
    InvalidInput
        Two files have one sample id after Unicode normalisation, or there are fewer than two
        classes.
    """
    ordered = sorted(entries)
    for one, other in itertools.pairwise(ordered):
        if one.sample_id == other.sample_id:
            raise InvalidInput(
                f"{root}: two files have the same name once Unicode is normalised: "
                f"{one.path!r} and {other.path!r}",
                next_step="rename one of them",
            )
    if len(class_names) < 2:
        found = f"only {class_names[0]!r}" if class_names else "none"
        raise InvalidInput(f"{root}: expected two classes or more, found {found}\n{LAYOUTS}")
    return Scan(root, tuple(sorted(class_names)), tuple(ordered), tuple(sorted(unreadable)))
