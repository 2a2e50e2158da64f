"""Which type a network computes in, decided before TensorFlow is loaded where that is possible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from featurestore.errors import InvalidInput
from featurestore.recipe import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16"]

_CPUINFO = Path("/proc/cpuinfo")
_NATIVE_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def native_bfloat16_cpu(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX-BF16).

    Read from Linux's ``/proc/cpuinfo``; False wherever that file does not exist.
    """
    if cpuinfo == _CPUINFO and sys.platform != "linux":
        return False
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        key, _, flags = line.partition(":")
        if key.strip() == "flags":
            return not _NATIVE_FLAGS.isdisjoint(flags.split())
    return False


def gpu_compute_capability() -> tuple[int, int] | None:
    """Return the lowest compute capability (major, minor) of the visible GPUs, None without one.

    Imports TensorFlow.
    """
    import tensorflow as tf

    capabilities: list[tuple[int, int]] = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        major, minor = details.get("compute_capability", (0, 0))
        capabilities.append((int(major), int(minor)))
    return min(capabilities, default=None)


def resolve_precision(
    choice: str,
    *,
    gpu: Callable[[], tuple[int, int] | None] = gpu_compute_capability,
    cpu: Callable[[], bool] = native_bfloat16_cpu,
) -> Precision:
    """Turn ``auto`` into the type this machine computes fast in; return other choices as they are.

    ``auto`` is bfloat16 on GPUs of compute capability 8.0 or more (Ampere) and, without a GPU, on
    processors with native bfloat16; float32 elsewhere. Both questions are put only for ``auto``.

    Raises
    ------
    InvalidInput
        `choice` is neither ``auto`` nor a known type.
    """
    for precision in PRECISIONS:
        if choice == precision:
            return precision
    if choice != "auto":
        raise InvalidInput(f"unknown precision {choice!r}: expected auto, {', '.join(PRECISIONS)}")
    capability = gpu()
    if capability is not None:
        return "bfloat16" if capability >= (8, 0) else "float32"
    return "bfloat16" if cpu() else "float32"
