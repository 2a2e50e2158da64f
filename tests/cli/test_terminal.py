"""What reaches a terminal, whatever its encoding and whatever else is diverted."""

import os
import subprocess
import sys

import pytest


def with_encoding(encoding, *code):
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(("import featurestore_cli.main as entry", *code))],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    return found.returncode, found.stdout.decode(encoding), found.stderr.decode(encoding)


def test_names_that_the_encoding_lacks_are_escaped():
    code, output, error = with_encoding(
        "cp1252",
        "import click",
        r"entry.run = lambda _: click.echo('\u65e5 \xe9 \udcff') or click.echo('\u65e5', err=True)",
        "entry.main([])",
    )
    assert (code, output.strip(), error.strip()) == (0, "\\u65e5 \xe9 \\udcff", "\\u65e5")


def test_json_stays_json_in_any_encoding():
    import json

    for encoding in ("cp1252", "utf-8"):
        code, output, _ = with_encoding(
            encoding,
            "from featurestore_cli.output import print_json",
            r"entry.run = lambda _: print_json(['\U0001f63a \xe9 \udcff'])",
            "entry.main([])",
        )
        assert (code, json.loads(output)) == (0, ["\U0001f63a \xe9 \udcff"])


def test_the_bar_moves_while_stderr_is_diverted():
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    code = """
import os, sys
from featurestore.backbones.quiet import quiet_startup
from featurestore_cli.progress import progress_for
with progress_for(sys.stderr) as progress, quiet_startup():
    progress.phase("while TensorFlow is imported")
    progress._bar.refresh()
    os._exit(0)  # what the diversion holds is lost
"""
    subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, check=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux ends a terminal that nobody holds so
        pass
    os.close(ours)
    assert b"while TensorFlow is imported" in shown
