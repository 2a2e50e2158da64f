"""Options that several commands share. Only this package reads environment variables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def cache_option(command: Command) -> Command:
    """Add `--cache DIR` (else `FS_CACHE`, else `./cache`), passed as `cache: Path`."""
    return click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="FS_CACHE",
        default=Path("cache"),
        show_default="$FS_CACHE, else ./cache",
        help="Folder that holds feature sets and runs.",
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json`, passed as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(
        command
    )


def memory_option(*, help: str, default: str = "4GiB") -> Callable[[Command], Command]:
    """Add `--memory SIZE`, passed as `memory_bytes: int`."""
    return click.option(
        "--memory",
        "memory_bytes",
        type=BytesType(),
        default=default,
        show_default=True,
        help=help,
    )


class SizeType(click.ParamType):
    """`150` or `HEIGHTxWIDTH`, in pixels."""

    name = "pixels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (height, width)."""
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if not match:
            self.fail(f"expected 150 or 150x200 (height x width), found {value!r}", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class BytesType(click.ParamType):
    """`500MiB`, `4GiB`, or a number of bytes, `least` or more; a passed default is a number."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes; units are binary."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if not match:
            self.fail(f"expected a size such as 500MiB or 4GiB, found {value!r}", param, ctx)
        size_bytes = int(float(match[1]) * self._UNITS[match[2].upper()])
        if size_bytes < self._least:
            self.fail(f"expected at least {self._least} B, found {value!r}", param, ctx)
        return size_bytes
