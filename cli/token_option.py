"""Where a token comes from: `FS_TOKEN` or a file, never the command line, which others can list."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click

from featurestore.errors import InvalidInput
from featurestore_cli.options import Command

_VARIABLE = "FS_TOKEN"
_MOST_BYTES = 4096


def token_option(command: Command) -> Command:
    """Add `--token-file FILE`, passed as `token_file: Path | None`; see `read_token`."""
    return click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        show_default="$FS_TOKEN",
        help="File that holds the service's token, readable by you alone.",
    )(command)


def read_token(token_file: Path | None) -> str | None:
    """Return the token of a file, else of `FS_TOKEN`; None where neither is given.

    Raises
    ------
    InvalidInput
        The file cannot be read, is empty or too long, or others than its owner may read it.
    """
    if token_file is None:
        return os.environ.get(_VARIABLE) or None
    try:
        with token_file.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{token_file}: {error.strerror}") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidInput(
            f"{token_file}: others than its owner may use it (mode {stat.S_IMODE(mode):04o})",
            next_step=f"chmod 600 {token_file}; and make a new token if anyone may have read it",
        )
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{token_file}: a token is ASCII, and this is not") from error
    if not token or len(content) > _MOST_BYTES:
        raise InvalidInput(f"{token_file}: expected one token, found {len(content)} bytes")
    return token
