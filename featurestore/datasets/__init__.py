"""Datasets on disk become manifests: which images there are, with their labels and splits.

`scan_dataset` reads names only; `build_manifest` reads the bytes, or remembers their digests.
"""

from featurestore.datasets.build import BuiltManifest, build_manifest, hash_all
from featurestore.datasets.entries import Entry, Scan, Unreadable
from featurestore.datasets.folders import files_below
from featurestore.datasets.scan import ScanOptions, scan_dataset
from featurestore.datasets.splitting import SplitFractions

__all__ = [
    "BuiltManifest",
    "Entry",
    "Scan",
    "ScanOptions",
    "SplitFractions",
    "Unreadable",
    "build_manifest",
    "files_below",
    "hash_all",
    "scan_dataset",
]
