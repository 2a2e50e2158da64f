"""What an embedding says and does about images that have no features."""

from __future__ import annotations

from featurestore.catalogue import Quarantined
from featurestore.errors import InvalidInput

_SHOWN = 5


def refuse_unreadable(quarantined: tuple[Quarantined, ...]) -> None:
    """Stop at the first unreadable image: what ``--strict`` asks for.

    Raises
    ------
    InvalidInput
        There is one.
    """
    if quarantined:
        first = quarantined[0]
        raise InvalidInput(
            f"image {first.sample_id}: {first.reason}",
            next_step="repair or remove the file, or leave --strict out to list such files",
        )


def first_reasons(quarantine: tuple[Quarantined, ...]) -> str:
    """Return the first few samples with their reasons, a line each, after a colon."""
    shown = "".join(f"\n  {entry.sample_id}: {entry.reason}" for entry in quarantine[:_SHOWN])
    return f":{shown}" if shown else ""
