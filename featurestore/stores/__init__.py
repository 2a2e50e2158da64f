"""Where committed features lie: one contract, a file format per module, chosen here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from featurestore.errors import InvalidInput, NotFound
from featurestore.stores.contract import StoreLayout, StoreReader, StoreWriter

STORE_FORMATS = ("zarr", "hdf5")

SUFFIXES: Mapping[str, str] = MappingProxyType({"zarr": ".zarr", "hdf5": ".h5"})

COMPRESSIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"zarr": ("zstd",), "hdf5": ("gzip", "zstd")}
)
"""Per format what features can be compressed with; the first is the default."""


def create_store(
    format: str, path: Path, layout: StoreLayout, *, compression: str | None = None
) -> StoreWriter:
    """Start a new store at `path`, where nothing may exist yet.

    Raises
    ------
    InvalidInput
        The format or the compression is not one of those listed above.
    MissingDependency
        HDF5 with zstd without the package hdf5plugin.
    OSError
        The path exists or cannot be written.
    """
    if format not in STORE_FORMATS:
        raise InvalidInput(
            f"unknown store format {format!r}",
            next_step=f"choose one of {', '.join(STORE_FORMATS)}",
        )
    choices = COMPRESSIONS[format]
    compression = compression or choices[0]
    if compression not in choices:
        raise InvalidInput(
            f"{format} stores are not compressed with {compression!r}",
            next_step=f"choose one of {', '.join(choices)}",
        )
    if format == "zarr":
        from featurestore.stores.zarr_store import ZarrWriter

        return ZarrWriter(path, layout)
    from featurestore.stores.hdf5_store import Hdf5Writer

    return Hdf5Writer(path, layout, compression=compression)


def open_store(path: Path) -> StoreReader:
    """Open a finished store: a directory is Zarr, a file is HDF5, whatever their names.

    Raises
    ------
    NotFound
        Nothing is at `path`.
    IntegrityError
        What is there is not a whole store.
    Conflict
        The store's format is newer than this installation.
    """
    if path.is_dir():
        from featurestore.stores.zarr_store import ZarrReader

        return ZarrReader(path)
    if not path.exists():
        raise NotFound(f"no store at {path}", next_step="list what there is: fs ls")
    from featurestore.stores.hdf5_reader import Hdf5Reader

    return Hdf5Reader(path)
