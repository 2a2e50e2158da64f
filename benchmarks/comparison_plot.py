"""Redraw docs/comparison.svg: heads on the demo's digits, which anyone may have (needs Matplotlib).

Writes scikit-learn's digits as images, embeds them at 48 pixels, trains what is missing, compares.
Run from the project's root; a second run with the same --folder and --cache trains nothing:

    python benchmarks/comparison_plot.py docs/comparison.svg [--weights FILE] [--report FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands import fs, run_json

from featurestore.demo import write_digits

# The reference's learning rate suits 8,192 columns; see featurestore/demo.py.
HEADS = "dense:learning_rate=0.001,logistic,random-forest,nearest-centroid"


def main() -> None:
    """Embed, compare, draw, and print the sentences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="The picture, .svg or .png.")
    parser.add_argument("--weights", default="imagenet", help="As of fs embed.")
    parser.add_argument("--heads", default=HEADS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", type=Path, help="Write the HTML report there.")
    parser.add_argument("--folder", type=Path, default=Path("fs-demo"))
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    digits = arguments.folder / "digits"
    write_digits(digits)
    cache = ["--cache", arguments.cache]
    embed = fs(
        "embed", digits, "--backbone", "vgg16", "--size", "48", "--weights", arguments.weights,
        *cache, "--json",
    )  # fmt: skip
    name = run_json(embed)["feature_set"]
    report = [] if arguments.report is None else ["--report", arguments.report]
    compare = fs(
        "compare", name, "--heads", arguments.heads, "--seeds", str(arguments.seeds),
        "--plot", arguments.output, *report, *cache, "--json",
    )  # fmt: skip
    found = run_json(compare)
    for pair in found["pairs"]:
        print(pair["sentence"])
    print(f"{found['images']} images, {found['feature_set']}", file=sys.stderr)


if __name__ == "__main__":
    main()
