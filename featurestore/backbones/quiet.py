"""Keep TensorFlow's start-up chatter off the terminal. Standard library only."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Lines that TensorFlow's native code writes before its log level applies: absl's notice, and
# messages "I0000 …", "W0000 …" and, on machines without an NVIDIA driver, "E0000 … cuInit …".
_CHATTER = re.compile(
    rb"(WARNING: All log messages before absl::InitializeLog|[IW]\d{4} |E\d{4} .*(cuInit|cuda|CUDA)"
    rb"|To enable the following instructions:|.*TF-TRT Warning|.*Skipping registering GPU devices)"
)

# Two threads that begin to import TensorFlow and Keras at different modules wait for each other:
# Python then gives one of them a half-made module ("deadlock detected", or an AttributeError).
_IMPORTING = threading.RLock()


@contextmanager
def quiet_startup() -> Iterator[None]:
    """Import TensorFlow inside: its native start-up lines are dropped, all others come after.

    One thread at a time; others wait.

    File descriptor 2 is diverted for the whole process while inside, because no log level reaches
    those lines (TensorFlow 2.21 writes them before logging is set up). Where TensorFlow is loaded
    already, or stderr has no file descriptor, nothing is touched.
    """
    with _IMPORTING, _without_chatter():
        yield


@contextmanager
def _without_chatter() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError):
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
