"""What bfloat16 compute and float16 storage change: cosines of features and accuracy of heads.

Embeds the photographs three times (float32 computed and stored; float32 computed, float16 stored;
bfloat16 computed, float16 stored) and trains both heads on each. Run from the project's root:

    python benchmarks/precision.py PHOTOGRAPHS WEIGHTS CACHE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from commands import embed_reference, run_json
from commands import fs as command_line

import featurestore as fs


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
        command = embed_reference(arguments.photographs, arguments.weights, cache)
        result = run_json([*command, "--precision", precision, "--dtype", dtype])
        sets[precision, dtype] = result["fingerprint"]
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
            head: run_json(command_line("train", name, "--head", head, "--cache", cache, "--json"))[
                "metrics"
            ]["test"]["accuracy"]
            for head in ("logistic", "dense")
        }
        print(
            f"| {precision} | {dtype} | {np.median(found):.6f} | {found.min():.6f} "
            f"| {accuracy['logistic']:.3f} | {accuracy['dense']:.3f} |"
        )


if __name__ == "__main__":
    main()
