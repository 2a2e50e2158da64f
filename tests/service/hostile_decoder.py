"""A decoder that does what damaged files make codecs do; imported by the processes under test."""

import ctypes
import os
import signal
import time

import numpy as np

from featurestore.images import TooManyPixels, UnreadableImage


def decode(content, *, size, interpolation, max_pixels):
    del interpolation, max_pixels
    what = content.split(b" ")[0].decode()
    if what == "segfault":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(0)
    if what == "hang":
        # As within a codec: neither the alarm's handler nor Python is asked.
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
        time.sleep(600)
    if what == "memory":
        bytearray(8 * 2**30)
    if what == "print":
        print("P\x00\x00\x00\x00", flush=True)
        os.write(1, b"P\x00\x00\x00\x00")
    if what == "pixels":
        raise TooManyPixels("9x9 pixels exceed the limit")
    if what == "unreadable":
        raise UnreadableImage("damaged")
    if what == "slow":
        time.sleep(0.3)
    if what == "slower":
        time.sleep(1.5)
    return np.full((*size, 3), len(content) % 256, np.uint8)
