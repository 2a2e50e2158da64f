"""What reaches a terminal, whatever its encoding and whatever else is diverted."""

import os
import subprocess
import sys

import pytest

from featurestore_cli.progress import progress_line


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


def piped(*code, both=False):
    """Run lines in a process of which only the first byte of output is read."""
    started = subprocess.Popen(
        [sys.executable, "-c", "\n".join(("import featurestore_cli.main as entry", *code))],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
    )
    started.stdout.read(1)
    started.stdout.close()
    said = b"" if both else started.stderr.read()
    return started.wait(), said.decode()


def command(*body):
    """Lines that make `fs ls` run `body`."""
    return (
        "import click, sys, featurestore_cli.sets as sets",
        "def ls():",
        *(f"    {line}" for line in body),
        "sets.ls = click.Command('ls', callback=ls)",
        "entry.main(['ls'])",
    )


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        ["for n in range(100_000): click.echo(n)"],
        ["for n in range(100_000): print(n)"],
        ["sys.stdout.write('x' * 1_000_000)"],
        ["sys.stdout.write('x')", "sys.stdout.flush()", "sys.stdin.read()", "print('end')"],
    ],
)
def test_a_reader_that_has_gone_is_no_failure(body, both):
    assert piped(*command(*body), both=both) == (0, "")


def test_help_with_a_reader_that_has_gone_is_no_failure():
    code = ("entry._COMMANDS = {f'c{n}': ('sets', 'ls', 'x' * 60) for n in range(5_000)}",)
    assert piped(*code, "entry.main(['--help'])") == (0, "")


def test_a_pipe_of_our_own_that_breaks_is_a_failure():
    code, output, said = with_encoding(
        "utf-8", *command("print('x')", "raise BrokenPipeError(32, 'child')")
    )
    assert (code, output) == (70, "x\n") and "child" in said


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


def on_terminal(code):
    """Return what a process shows on a terminal that is its stderr."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code],
        stderr=theirs,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "40"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux ends a terminal that nobody holds so
        pass
    os.close(ours)
    return shown


def test_a_progress_line_fits_and_goes_at_the_end():
    code = """
from featurestore_cli.progress import progress_line
with progress_line() as show:
    show("fit 1 of 2: \\x1b[2J\\n" + "x" * 100)
    show("fit 2 of 2")
"""
    first, second, last = on_terminal(code).decode().split("\r\x1b[K")[1:]
    assert first.startswith("fit 1 of 2: \\x1b[2J\\nxx") and len(first) == 39
    assert (second, last) == ("fit 2 of 2", "")


def test_no_progress_line_off_a_terminal(capsys):
    with progress_line() as show:
        assert show is None
    assert capsys.readouterr() == ("", "")


def test_the_bar_moves_while_stderr_is_diverted():
    code = """
import os, sys
from featurestore.backbones.quiet import quiet_startup
from featurestore_cli.progress import progress_for
with progress_for(sys.stderr) as progress, quiet_startup():
    progress.phase("while TensorFlow is imported")
    progress._bar.refresh()
    os._exit(0)  # what the diversion holds is lost
"""
    assert b"while TensorFlow is imported" in on_terminal(code)
