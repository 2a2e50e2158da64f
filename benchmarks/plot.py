"""Draw docs/benchmark.svg from the JSON files that embed.py and reuse.py write (needs Matplotlib).

python benchmarks/plot.py EMBED_JSON REUSE_JSON docs/benchmark.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

INK, MUTED, OURS, OTHER = "#1f2933", "#7b8794", "#0b6e99", "#b8c4ce"


def bars(
    axes: plt.Axes, names: list[str], values: list[float], texts: list[str], ours: set
) -> None:
    """Draw horizontal bars, each with its value behind it."""
    positions = range(len(names))[::-1]
    colours = [OURS if name in ours else OTHER for name in names]
    axes.barh(positions, values, color=colours, height=0.62)
    axes.set_yticks(list(positions), names, color=INK)
    for position, value, text in zip(positions, values, texts, strict=True):
        axes.annotate(
            text, (value, position), xytext=(6, 0), textcoords="offset points", va="center",
            color=INK,
        )  # fmt: skip
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(MUTED)
    axes.tick_params(which="both", length=0, labelbottom=False)


def main() -> None:
    """Read both files and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("embed", type=Path)
    parser.add_argument("reuse", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    rates = json.loads(arguments.embed.read_text())["median"]
    reuse = json.loads(arguments.reuse.read_text())
    plt.rcParams |= {"font.size": 10, "svg.hashsalt": "featurestore", "svg.fonttype": "path"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 2.9), layout="constrained")
    names = {"a": "notebook's loop", "b": "fs embed", "c": "bare network"}
    relative = [rates[key] / rates["a"] for key in names]
    texts = [f"{ratio:.2f} ×" for ratio in relative]
    bars(left, list(names.values()), relative, texts, {"fs embed"})
    left.set_xlim(0, max(relative) * 1.18)
    left.set_title("VGG16 features, images/s\nrelative to the notebook's loop", loc="left", size=10)
    seconds = reuse["seconds"]
    texts = []
    for name, value in seconds.items():
        head = reuse["accuracy"].get(name.removeprefix("train "))
        note = f", test accuracy {head['test']:.3f}" if head else ""
        percent = 100 * value / seconds["embed"]
        texts.append(f"{percent:.{0 if percent >= 10 else 1}f} %{note}")
    labels = {"embed": "embed, first time"}
    bars(
        right,
        [labels.get(name, name) for name in seconds],
        list(seconds.values()),
        texts,
        {"three changed", "nothing changed", "train logistic", "train dense"},
    )
    right.set_xscale("log")
    right.set_xlim(0.1, max(seconds.values()) * 6)
    right.set_title(
        "4,000 photographs, time of whole commands\nin % of the first embedding (log scale)",
        loc="left",
        size=10,
    )
    figure.savefig(arguments.output, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
