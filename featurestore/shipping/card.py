"""What lies beside a shipped model: how images become its input, and what it is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from featurestore.recipe import Recipe
from featurestore.shipping.markdown import code, escaped
from featurestore.shipping.settings import INPUT_NAME, OUTPUT_NAME, Check, ModelFormat
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.runs import Run

FORMAT_VERSION = 1
_LIBRARIES: Mapping[ModelFormat, tuple[str, ...]] = {
    "keras": ("tensorflow", "keras"),
    "savedmodel": ("tensorflow", "keras"),
    "onnx": ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"),
}
_RUNTIMES: Mapping[ModelFormat, str] = {
    "keras": "Keras 3 with TensorFlow",
    "savedmodel": "TensorFlow 2",
    "onnx": "ONNX Runtime 1.12 or later",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shipment:
    """Everything that the files beside a model tell.

    Parameters
    ----------
    name
        File name of the model.
    files
        SHA-256 of the model's files, by path from the folder that the model lies in.
    weights
        The backbone's weights as they were named.
    """

    name: str
    format: ModelFormat
    run: Run
    files: Mapping[str, str]
    weights: str
    check: Check | None


def identity(run: Run) -> dict[str, object]:
    """Return what a model is made of, JSON-ready."""
    return {
        "run": run.id,
        "head": run.head,
        "class_names": list(run.features.class_names),
        "feature_set": run.features.name,
        "feature_set_fingerprint": run.features.fingerprint,
        "recipe_fingerprint": run.features.recipe_fingerprint,
    }


def description(shipment: Shipment) -> bytes:
    """Return the JSON file's bytes: every fact a program needs to use the model."""
    run, recipe = shipment.run, shipment.run.features.recipe
    height, width = _size(recipe)
    fields = {
        "format_version": FORMAT_VERSION,
        "model": shipment.name,
        "format": shipment.format,
        "files": dict(shipment.files),
        "input": {
            "name": INPUT_NAME,
            "dtype": "uint8",
            "shape": [None, height, width, 3],
            "axes": "batch, height, width, colour",
            "colours": "RGB",
            "range": [0, 255],
        },
        "output": {
            "name": OUTPUT_NAME,
            "dtype": "float32",
            "shape": [None, len(run.features.class_names)],
            "class_names": list(run.features.class_names),
        },
        "decoding": {
            "rule": recipe["decoder"],
            "interpolation": recipe["interpolation"],
            "steps": _rules(recipe),
        },
        "computes_in": "float32",
        "made_of": identity(run)
        | {
            "head_settings": run.settings.to_dict(),
            "seed": run.seed,
            "shuffled_labels": run.shuffled_labels,
            "path": run.path_taken,
            "augmentation": run.augmentation,
            "started_from": run.started_from,
            "parameters": dict(run.parameters),
            "notes": list(run.notes),
            "metrics": dict(run.metrics),
            "recipe": dict(recipe),
            "weights": shipment.weights,
            "trained_with": dict(run.versions),
        },
        "check": None if shipment.check is None else dataclasses.asdict(shipment.check),
        "versions": _versions(shipment.format),
        "example": example(shipment),
    }
    return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def card(shipment: Shipment) -> bytes:
    """Return the Markdown file's bytes: the same for people, shorter."""
    run, recipe = shipment.run, shipment.run.features.recipe
    height, width = _size(recipe)
    names = run.features.class_names
    lines = [
        f"# {escaped(shipment.name)}",
        "",
        f"An image classifier of {len(names)} classes: {_network(run)}. Preprocessing is inside.",
        "",
        f"- Input `{INPUT_NAME}`: uint8, (N, {height}, {width}, 3), RGB, 0 to 255. Any N.",
        f"- Output `{OUTPUT_NAME}`: float32, (N, {len(names)}). Columns: {_listed(names)}.",
        f"- Runs in {_RUNTIMES[shipment.format]}; computes in float32.",
        "",
        "## From a file to the input",
        "",
        *(f"{number}. {rule}" for number, rule in enumerate(_rules(recipe), 1)),
        "",
        "## Example",
        "",
        "```python",
        example(shipment).rstrip(),
        "```",
        "",
        "An image with transparency must be laid over white first, as step 2 says.",
        "",
        "## Check",
        "",
        _check_text(shipment.check, str(recipe["precision"])),
        "",
        "## Origin",
        "",
        f"- Run {code(run.id)}, trained {escaped(run.created)} on {code(run.features.name)}.",
        *_fine_tuning(run),
        *(f"- {escaped(split)} accuracy {found:.4f}." for split, found in _accuracies(run)),
        *(f"- Note: {escaped(note)}." for note in run.notes),
        f"- Recipe {run.features.recipe_fingerprint}.",
        f"- Feature set {run.features.fingerprint}.",
        "",
        f"Every field, the files' digests and the versions: {code(shipment.name + '.json')}.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _network(run: Run) -> str:
    recipe, settings = run.features.recipe, run.settings
    if isinstance(settings, FineTuneSettings):
        return (
            f"{code(settings.backbone)} up to layer {code(settings.layer)}, fine-tuned in "
            f"{', '.join(map(code, settings.unfreeze))}, then a dense head"
        )
    return (
        f"{code(str(recipe['backbone']))} up to layer {code(str(recipe['layer']))}, "
        f"then a head ({code(run.head)})"
    )


def _fine_tuning(run: Run) -> list[str]:
    """Return a line of what a fine-tuning trained and what it left as it was; else none."""
    if not isinstance(run.settings, FineTuneSettings):
        return []
    trained = run.parameters.get("base_trainable", 0)
    total = run.parameters.get("base_total", 0)
    return [
        f"- It started from run {code(str(run.started_from))}. Trained were {trained:,} of the "
        f"backbone's {total:,} weights, with the head; up to {code(run.settings.cut)} it is as "
        "pretrained."
    ]


def example(shipment: Shipment) -> str:
    """Return a Python program that classifies ``photo.jpg`` with Pillow, NumPy and the runtime."""
    recipe = shipment.run.features.recipe
    height, width = _size(recipe)
    model, names = json.dumps(shipment.name), json.dumps(f"{shipment.name}.json")
    runtime, load, predict = {
        "keras": (
            "import keras",
            f"keras.saving.load_model({model})",
            "model.predict(pixels, verbose=0)",
        ),
        "savedmodel": (
            "import tensorflow as tf",
            f"tf.saved_model.load({model})",
            f'model.signatures["serving_default"]({INPUT_NAME}=tf.constant(pixels))'
            f'["{OUTPUT_NAME}"].numpy()',
        ),
        "onnx": (
            "import onnxruntime",
            f'onnxruntime.InferenceSession({model}, providers=["CPUExecutionProvider"])',
            f'model.run(None, {{"{INPUT_NAME}": pixels}})[0]',
        ),
    }[shipment.format]
    resampling = f"Image.Resampling.{str(recipe['interpolation']).upper()}"
    return "\n".join(
        [
            "import json",
            runtime,
            "import numpy as np",
            "from PIL import Image, ImageOps",
            "",
            'image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
            f"pixels = np.asarray(image.resize(({width}, {height}), {resampling}))[None]",
            f"model = {load}",
            f"probabilities = {predict}[0]",
            f'names = json.load(open({names}, encoding="utf-8"))["output"]["class_names"]',
            "print(dict(zip(names, probabilities.tolist())))",
            "",
        ]
    )


def _rules(recipe: Mapping[str, object]) -> list[str]:
    """Return rule by rule what `featurestore.images` does; the recipe's decoder names its version.

    Written for `pillow-upright-rgb-1`.
    """
    height, width = _size(recipe)
    return [
        "Decode the first frame or page (JPEG, PNG, WebP, BMP, GIF or TIFF). 16-bit grey keeps its "
        "high byte. ICC profiles are ignored.",
        "Convert to RGB as Pillow does (grey, palette, CMYK, YCCK, YCbCr, LAB); lay transparency "
        "over white.",
        "Turn the image upright by its EXIF orientation.",
        f"Squash the whole image to {width} pixels wide and {height} high, without a crop, by "
        f"Pillow's {recipe['interpolation']} filter"
        + (
            "."
            if recipe["interpolation"] == "nearest"
            else ", which widens as it shrinks (antialiased). The filters of the same name in "
            "OpenCV and in tf.image.resize (antialias=False) give other pixels."
        ),
        "Do not scale or normalise: the network does that itself.",
    ]


def _check_text(check: Check | None, precision: str) -> str:
    if check is None:
        return "Not checked: it was exported with --no-check."
    return (
        f"The written file was read back and run on {check.images} images of the feature set. Its "
        f"probabilities differ from those that the run recorded by at most "
        f"{check.largest_difference:.2g} ({check.mean_difference:.1g} on average; allowed: "
        f"{check.tolerance:g}), and {check.classes_differ} predicted classes differ (allowed: "
        f"{check.classes_allowed}). The run's features were computed in {precision}, the model "
        f"computes in float32; from the same head on float32 features the file differs by at most "
        f"{check.conversion_difference:.2g}."
    )


def _accuracies(run: Run) -> list[tuple[str, float]]:
    return [
        (split, found["accuracy"])
        for split, found in run.metrics.items()
        if found is not None and found["accuracy"] is not None
    ]


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(code, names[:most])) + more


def _size(recipe: Mapping[str, object]) -> tuple[int, int]:
    return Recipe.from_dict(recipe).size


def _versions(model_format: ModelFormat) -> dict[str, str]:
    packages = ("featurestore", "numpy", "pillow", *_LIBRARIES[model_format])
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def sidecar(path: Path, ending: str) -> Path:
    """Return the path of the file beside a model: its whole name, with another ending after it."""
    return path.with_name(path.name + ending)
