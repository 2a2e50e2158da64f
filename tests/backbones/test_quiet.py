"""Importing TensorFlow from several threads, as a service does at its first requests."""

import subprocess
import sys

THREADS = """
import threading
from featurestore.backbones.quiet import quiet_startup
from featurestore.training.heads import create_head
from featurestore.training.settings import DenseSettings

def network():
    with quiet_startup():
        import featurestore.backbones.network

def head():
    create_head(DenseSettings())

def run(action):
    together.wait()
    try:
        action()
    except BaseException as error:
        print(f"{action.__name__}: {error!r}")

together = threading.Barrier(2)
threads = [threading.Thread(target=run, args=(action,)) for action in (network, head)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_network_and_a_head_may_be_loaded_at_once():
    found = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout == ""
