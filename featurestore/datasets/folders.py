"""Folders of class folders, with or without folders of splits above them.

Within a class folder, files are found at any depth. Names that begin with a dot and the litter of
desktops are passed over, and so is a cache beside the folders; every other file is a sample,
whatever its name ends with. Links are followed; a link to a folder that contains it is not.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from featurestore.datasets.entries import (
    LAYOUTS,
    SPLIT_NAMES,
    Entry,
    Scan,
    Unreadable,
    checked_scan,
    some_of,
)
from featurestore.datasets.splitting import SplitFractions, assign_splits
from featurestore.errors import InvalidInput
from featurestore.names import as_unicode, is_unicode, nfc
from featurestore.state import CACHE_MARKER

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"})
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclasses.dataclass
class _Found:
    """What a walk has found so far; `samples` counts both kinds by class."""

    entries: list[Entry] = dataclasses.field(default_factory=list)
    unreadable: list[Unreadable] = dataclasses.field(default_factory=list)
    samples: dict[str, int] = dataclasses.field(default_factory=dict)


def scan_folder(root: Path, *, fractions: SplitFractions | None) -> Scan:
    """Return what the folder `root` lists.

    Raises
    ------
    InvalidInput
        The layout is not one of the two, is ambiguous, or does not go with `fractions`; images
        lie outside class folders; a class or split is empty; a folder cannot be listed.
    """
    folders = _subfolders(root, root)
    splits = _split_folders(root, folders)
    found = _Found()
    if splits:
        if fractions is not None:
            raise InvalidInput(
                f"{root}: --split was given, but the folder is already split into "
                f"{some_of(sorted(splits.values()))}",
                next_step="leave --split out",
            )
        for split, name in splits.items():
            _scan_split(root, name, split=split, found=found)
    elif fractions is None:
        _refuse_unsplit(root, folders)
    else:
        _scan_classes(root, folders, prefix="", split="", found=found)
        found.entries = assign_splits(found.entries, fractions)
    empty = sorted(label for label, samples in found.samples.items() if not samples)
    if empty:
        raise InvalidInput(
            f"{root}: no images in the class folders {some_of(empty)}",
            next_step="remove the empty folders, or put images into them",
        )
    return checked_scan(
        root, list(found.samples), entries=found.entries, unreadable=found.unreadable
    )


def files_below(folder: Path) -> tuple[list[Path], list[Unreadable]]:
    """Return every file below a folder that counts as a sample, and what is no file, in order.

    A folder of images without classes: what is passed over, and how links are followed, is as in a
    class folder.

    Raises
    ------
    InvalidInput
        A folder cannot be listed.
    """
    found = _Found()
    _walk(str(folder), str(folder), ("", ""), found)
    return [Path(entry.path) for entry in sorted(found.entries)], sorted(found.unreadable)


def _split_folders(root: Path, folders: list[str]) -> dict[str, str]:
    """Return split -> folder name, or nothing where no folder is named like a split."""
    splits: dict[str, str] = {}
    strays = []
    for name in folders:
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            strays.append(name)
        elif split in splits:
            raise InvalidInput(
                f"{root}: the folders {splits[split]!r} and {name!r} both mean the {split} split",
                next_step="merge them or rename one",
            )
        else:
            splits[split] = name
    if splits and strays:
        raise InvalidInput(
            f"{root}: {some_of(sorted(splits.values()))} are splits, but "
            f"{some_of([as_unicode(name) for name in strays])} beside them are not",
            next_step="move or rename them, so that all folders are splits or all are classes",
        )
    return splits


def _refuse_unsplit(root: Path, folders: list[str]) -> None:
    if not folders:
        raise InvalidInput(f"{root}: no folders of images in it\n{LAYOUTS}")
    raise InvalidInput(
        f"{root}: {some_of([as_unicode(name) for name in folders])} look like class folders, and "
        f"nothing says how to split them\n{LAYOUTS}",
        next_step="add --split 0.7,0.15,0.15, or sort the classes into train, validation and test",
    )


def _scan_split(root: Path, name: str, *, split: str, found: _Found) -> None:
    before = len(found.entries) + len(found.unreadable)
    folders = _subfolders(root / name, root)
    _scan_classes(root / name, folders, prefix=f"{name}/", split=split, found=found)
    if len(found.entries) + len(found.unreadable) == before:
        raise InvalidInput(
            f"{root / name}: no class folder with images in it\n{LAYOUTS}",
            next_step="remove the folder, or put class folders into it",
        )


def _scan_classes(
    parent: Path, folders: list[str], *, prefix: str, split: str, found: _Found
) -> None:
    spelled: dict[str, str] = {}
    for name in folders:
        if not is_unicode(name):
            raise InvalidInput(
                f"{parent}: the name of the class folder {as_unicode(name)!r} is not valid UTF-8",
                next_step="rename the folder",
            )
        label = nfc(name)
        if label in spelled:
            raise InvalidInput(
                f"{parent}: two class folders have the same name {label!r} once Unicode is "
                "normalised",
                next_step="merge them",
            )
        spelled[label] = name
        before = len(found.entries) + len(found.unreadable)
        _walk(os.path.join(parent, name), f"{prefix}{label}", (label, split), found)
        samples = len(found.entries) + len(found.unreadable) - before
        found.samples[label] = found.samples.get(label, 0) + samples


def _walk(top: str, top_id: str, label_and_split: tuple[str, str], found: _Found) -> None:
    """Collect every file below `top`; no recursion, so depth has no limit but the system's."""
    label, split = label_and_split
    pending = [(top, top_id, frozenset({_identity(top)}))]
    while pending:
        folder, folder_id, above = pending.pop()
        for item in _listed(folder):
            if _passed_over(item.name):
                continue
            sample_id = f"{folder_id}/{item.name}"
            kind = _kind(item)
            if kind == "folder":
                identity = _identity(item.path)
                if identity not in above:
                    pending.append((item.path, sample_id, above | {identity}))
            elif not is_unicode(sample_id):
                reason = "file name is not valid UTF-8"
                found.unreadable.append(Unreadable(as_unicode(sample_id), reason))
            elif kind == "file":
                found.entries.append(Entry(nfc(sample_id), item.path, label, split))
            else:
                found.unreadable.append(Unreadable(nfc(sample_id), kind))


def _kind(item: os.DirEntry[str]) -> str:
    """Return ``folder``, ``file`` or the reason why it is neither; links are followed."""
    try:
        if item.is_dir():
            return "folder"
        if item.is_file():
            return "file"
    except OSError as error:  # links in a circle, or into a folder that may not be entered
        return f"cannot be read: {error.strerror or error}"
    return "link to nothing" if item.is_symlink() else "not a regular file"


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _subfolders(folder: Path, root: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted.

    Raises
    ------
    InvalidInput
        Image files lie beside them: they would be in no class.
    """
    folders, images = [], []
    for item in _listed(str(folder)):
        if _passed_over(item.name):
            continue
        if _kind(item) == "folder":
            # `fs embed .` puts its cache beside the splits.
            if not os.path.exists(os.path.join(item.path, CACHE_MARKER)):
                folders.append(item.name)
        elif item.name.lower().endswith(_IMAGE_SUFFIXES):
            images.append(as_unicode(item.name))
    if images:
        where = "" if folder == root else f" of {root}"
        raise InvalidInput(
            f"{folder}: {len(images)} image files{where} lie in no class folder: "
            f"{some_of(images)}\n{LAYOUTS}",
            next_step="move them into class folders",
        )
    return folders


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise InvalidInput(
            f"{folder}: the folder cannot be listed: {error.strerror or error}",
            next_step="make it readable (chmod u+rx), or move it out of the dataset",
        ) from error


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER
