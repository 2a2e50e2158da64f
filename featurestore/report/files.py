"""Where pictures and reports are written: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from featurestore.errors import InvalidInput
from featurestore.stores import durable

PICTURE_SUFFIXES = (".png", ".svg")


def check_picture_path(path: Path) -> None:
    """Refuse a name that says neither PNG nor SVG.

    Raises
    ------
    InvalidInput
        The name ends otherwise.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InvalidInput(
            f"picture {path}: expected a name ending in {' or '.join(PICTURE_SUFFIXES)}, "
            f"found {path.suffix or 'no ending'}",
            next_step=f"write to {path.with_suffix('.svg')}",
        )


def write_whole(path: Path, content: bytes) -> None:
    """Give `path` new contents; those of a file that was there stay until these are durable.

    Raises
    ------
    InvalidInput
        The file cannot be written there.
    """
    try:
        durable.replace_file(path, content)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}",
            next_step="choose a folder that exists and can be written to",
        ) from error
