"""What holds Python while a server answers, as py-spy sees it."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_TOP, _WITHIN_ALL = 25, 0.9


def profile(pid: int, file: Path, seconds: float, answer: Callable[[float], object]) -> None:
    """Watch a process while `answer` keeps it busy for so many seconds; print what it does most.

    Samples are of the thread that holds the interpreter's lock; they are left in `file`, in the
    format of flame graphs.
    """
    command = [
        "py-spy", "record", "--format", "raw", "--rate", "250", "--gil",
        "--duration", str(int(seconds)), "--output", str(file), "--pid", str(pid),
    ]  # fmt: skip
    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    answer(seconds + 1)
    _, said = watch.communicate(timeout=60)
    if watch.returncode:
        raise RuntimeError(f"py-spy: {said.decode()}")
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        for frame in set(frames):
            below[frame] += int(count)
    whole = sum(own.values())
    for title, counted in (("itself", own), ("with what it calls", below)):
        print(f"  {title}, of {whole} samples:")
        # What everything goes through says nothing.
        telling = [pair for pair in counted.most_common() if pair[1] < _WITHIN_ALL * whole]
        for frame, count in telling[:_TOP]:
            print(f"  {100 * count / whole:5.1f} %  {frame}")
