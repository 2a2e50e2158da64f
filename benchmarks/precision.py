"""What bfloat16 compute and float16 storage change: cosines of features and accuracy of heads.

Embeds the photographs three times (float32 computed and stored; float32 computed, float16 stored;
bfloat16 computed, float16 stored) and trains both heads on each. Run from the project's root:

    python benchmarks/precision.py PHOTOGRAPHS WEIGHTS CACHE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import featurestore as fs

FS = [sys.executable, "-c", "from featurestore_cli.main import main; main()"]


def run(*arguments: str) -> dict:
    """Run one `fs` command and return its JSON."""
    found = subprocess.run([*FS, *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(found.stdout)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, in float64."""
    a = left.reshape(len(left), -1).astype(np.float64)
    b = right.reshape(len(right), -1).astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def main() -> None:
    """Embed, compare, train and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cache", type=Path)
    arguments = parser.parse_args()
    cache = str(arguments.cache)
    sets = {}
    for precision, dtype in (
        ("float32", "float32"),
        ("float32", "float16"),
        ("bfloat16", "float16"),
    ):
        sets[precision, dtype] = run(
            "embed", str(arguments.photographs), "--backbone", "vgg16", "--size", "150",
            "--weights", str(arguments.weights), "--precision", precision, "--dtype", dtype,
            "--cache", cache,
        )["fingerprint"]  # fmt: skip
    with fs.open(sets["float32", "float32"], cache=cache) as exact:
        reference = {name: exact[name].load()[0] for name in exact.splits}
    print("| computed | stored | cosine: median | least | logistic, test | dense, test |")
    print("|---|---|---|---|---|---|")
    for (precision, dtype), name in sets.items():
        with fs.open(name, cache=cache) as features:
            found = np.concatenate(
                [cosines(features[split].load()[0], reference[split]) for split in reference]
            )
        accuracy = {
            head: run("train", name, "--head", head, "--cache", cache)["metrics"]["test"][
                "accuracy"
            ]
            for head in ("logistic", "dense")
        }
        print(
            f"| {precision} | {dtype} | {np.median(found):.6f} | {found.min():.6f} "
            f"| {accuracy['logistic']:.3f} | {accuracy['dense']:.3f} |"
        )


if __name__ == "__main__":
    main()
