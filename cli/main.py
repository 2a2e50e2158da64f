"""The `fs` command: its groups, and the one place where an error becomes an exit code."""

from __future__ import annotations

import errno
import importlib
import io
import os
import select
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from featurestore.errors import Conflict, FeatureStoreError, InvalidInput
from featurestore_cli.output import say_error

# name: (module, attribute, one line of help). Modules are imported when their command runs, so
# that `fs --help` and a no-op stay fast.
_COMMANDS = {
    "demo": ("demo", "demo", "Embed and classify a bundled data set, end to end."),
    "embed": ("embed", "embed", "Compute the features of a dataset, once."),
    "ls": ("sets", "ls", "List the feature sets of a cache."),
    "show": ("sets", "show", "Show a feature set or a run, whole."),
    "train": ("train", "train", "Train a classifier on cached features."),
    "runs": ("runs", "runs", "List the runs of a cache, sorted as asked."),
    "evaluate": ("evaluate", "evaluate", "Score a run again, or on other features of its recipe."),
    "predict": ("predict", "predict", "Classify images with a run, through the cache."),
    "serve": ("serve", "serve", "Serve a cache over HTTP: browse, pull, embed, predict."),
    "pull": ("pull", "pull", "Copy a feature set or a run from a service."),
    "rm": ("runs", "rm", "Remove runs."),
    "compare": ("compare", "compare", "Compare heads, and say what can be told apart."),
    "learning-curve": (
        "learning_curve",
        "learning_curve",
        "Measure accuracy against the number of labelled images.",
    ),
    "plot": ("plot", "plot", "Draw runs: curves, confusion, ROC, reliability."),
    "audit": ("audit", "audit", "Look for leaks between splits, and for skewed classes."),
    "verify": ("sets", "verify", "Check a feature set's bytes, or recompute some rows."),
    "export": ("sets", "export", "Write a feature set as .npz, .parquet, .h5 or .zarr."),
    "export-model": (
        "export_model",
        "export_model",
        "Write a run as one network from image to probabilities.",
    ),
    "gc": ("sets", "gc", "Remove superseded versions and leftovers of killed runs."),
    "summary": ("backbones", "summary", "Print a backbone's layers and parameters."),
    "doctor": ("doctor", "doctor", "Report versions, devices, precision and cache health."),
}
_BUG = 70
_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _BrokenPipe(Exception):  # noqa: N818 -- never leaves this module
    """A `BrokenPipeError` that Click does not see: it would end with exit code 1."""


class _LazyGroup(click.Group):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _broken_pipes_kept():  # --help prints from here
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> object:
        with _broken_pipes_kept():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"featurestore_cli.{module}"), attribute
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@contextmanager
def _broken_pipes_kept() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _BrokenPipe from error


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="featurestore", prog_name="fs")
def fs() -> None:
    """Compute image features once; train any number of classifiers on identical features.

    Exit codes: 0 done; 1 done, with samples skipped or, for audit, with a leak found; 2 usage;
    3 bad input, or a file or folder that the system refuses; 4 not found; 5 integrity; 6 conflict,
    lock or full disk; 7 missing dependency; 70 a bug; 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `fs` and leave with its exit code."""
    # TensorFlow reads these when it is imported: its start-up chatter is not the user's business.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Pillow warns of odd TIFF tags; what cannot be decoded is quarantined with its own reason.
    warnings.filterwarnings("ignore", module="PIL")
    # A name that the terminal's encoding lacks (Windows cp1252) or that is no text at all (a lone
    # surrogate) is shown escaped; the default is to end with UnicodeEncodeError.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error ends as a message on stderr."""
    try:
        code = int(fs.main(args=arguments, prog_name="fs", standalone_mode=False) or 0)
        sys.stdout.flush()  # here, and not at exit, the reader may be found gone
        return code
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what was staged is kept, run the same command again", err=True)
        return _INTERRUPTED
    except FeatureStoreError as error:
        say_error(error)
        return error.exit_code
    except (BrokenPipeError, _BrokenPipe):
        # If the reader of our output has gone (`fs ls | head`), nothing is left to say.
        unread = [_silence_if_unread(stream) for stream in (sys.stdout, sys.stderr)]
        if any(unread):
            return 0
        traceback.print_exc()
        return _BUG  # another pipe: to a process of our own
    except OSError as error:
        failure = _of_system(error)
        say_error(failure)
        return failure.exit_code
    except Exception:
        traceback.print_exc()
        click.echo("this is a bug in featurestore; please report the lines above", err=True)
        return _BUG


def _silence_if_unread(stream: TextIO) -> bool:
    """Turn a stream that nobody reads to nowhere; what it still holds would fail again at exit."""
    unread = _is_unread(stream)
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return unread


def _is_unread(stream: TextIO) -> bool:
    # Not by another write: after a failed one, Python may have nothing left to write.
    if sys.platform == "win32":  # it cannot be asked there, and says so by another error anyway
        return True
    try:
        ends = select.poll()
        ends.register(stream.fileno(), select.POLLOUT)
    except OSError:  # no descriptor behind it
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in ends.poll(0))


def _of_system(error: OSError) -> FeatureStoreError:
    """Return a refusal of the operating system as what the reader would do about it."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    message = ": ".join([*names, error.strerror or str(error) or type(error).__name__])
    if error.errno in _FULL:
        return Conflict(
            message,
            next_step="free some space (fs gc), then run the same command again: "
            "what was staged is kept",
        )
    return InvalidInput(message)
