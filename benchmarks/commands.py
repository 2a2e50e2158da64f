"""`fs` commands as processes of their own, for the scripts beside this file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def fs(*arguments: str | Path) -> list[str]:
    """Return the command line of one `fs` command, run by this interpreter."""
    program = "from featurestore_cli.main import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def embed_reference(photographs: Path, weights: Path, cache: Path | str) -> list[str]:
    """Return the command line that embeds photographs as the reference does."""
    return fs(
        "embed", photographs, "--backbone", "vgg16", "--size", "150", "--weights", weights,
        "--cache", cache, "--json",
    )  # fmt: skip


def run_json(command: list[str]) -> dict:
    """Run a command to its end and return the JSON object it prints."""
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
