"""Exporting a run as one network, and checking what was written before it gets its name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from featurestore.backbones.quiet import quiet_startup
from featurestore.catalogue import Catalogue, Record, set_fingerprint
from featurestore.digests import sha256_file
from featurestore.embedding.backbone import network_of
from featurestore.errors import Conflict, MissingDependency, NotFound
from featurestore.recipe import Recipe
from featurestore.shipping.card import Shipment, card, description, identity, sidecar
from featurestore.shipping.check import Predict, check_model
from featurestore.shipping.samples import Samples
from featurestore.shipping.settings import ModelFormat, ShipOptions, ShippedModel, model_format
from featurestore.stores import durable
from featurestore.training.classify import recipe_of
from featurestore.training.contract import Head
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.runs import Run

if TYPE_CHECKING:
    from featurestore.backbones.network import Network

_SAVED_MODEL = "saved_model.pb"  # what makes a folder a SavedModel
Told = Callable[[str], None]


def export_model(
    run: Run,
    path: Path,
    *,
    cache: Path,
    options: ShipOptions,
    tell: Told | None = None,
) -> ShippedModel:
    """Write a run as one network from image to class probabilities, checked, and describe it.

    The ending of `path` chooses the format, see `model_format`. The file is written under a
    temporary name, read back as its user would, run on images of the run's feature set and held to
    the probabilities that the run recorded for them; then it is renamed. ``PATH.json`` and
    ``PATH.md`` are written beside it, before it gets its name. All three are durable when this
    returns; after an error nothing new stands under `path`.

    Parameters
    ----------
    cache
        Where the run's feature set is.
    tell
        Told each step, in words.

    Raises
    ------
    InvalidInput
        The head cannot become layers of a network, the network cannot be written as ONNX, the
        ending is unknown, or a photograph is not the one that was embedded.
    NotFound
        The feature set, its photographs or its weights are gone.
    Conflict
        Something of that name exists, or the weights are not those of the recipe.
    IntegrityError
        The file that was written differs from the run by more than is allowed, or the run's own
        files are damaged.
    MissingDependency
        ONNX, and tf2onnx or onnxruntime is not installed.
    """
    say = tell or (lambda _: None)
    kind = model_format(path)
    _require_packages(kind)
    _refuse_existing(path, kind, overwrite=options.overwrite)
    record = _record_of(run, cache, needed=options.check > 0 or options.weights is None)
    weights = options.weights or str(record.provenance["weights"] if record else "")
    samples = None
    if options.check and record is not None:
        samples = Samples(run, record, count=options.check, photographs=options.photographs)
    recipe = recipe_of(run)
    say(f"building {recipe.backbone} and the head {run.head}")
    head = _in_float32(run.load_head())
    model, embed = _assemble(run, head, recipe, weights=weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    building = durable.temporary_path(path)
    try:
        say(f"writing {path.name}")
        _write(model, building, kind, run)
        _sync(building)
        check = None
        if samples is not None:
            say(f"checking it on {len(samples)} images")
            check = check_model(
                _read(building, kind),
                lambda images: head.predict_proba(embed(images)),
                samples.batches(),
                tolerance=options.tolerance_for(recipe),
                classes_differ=options.classes_differ,
            )
        shipment = Shipment(
            name=path.name,
            format=kind,
            run=run,
            files=_digests(building, path.name),
            weights=weights,
            check=check,
        )
        size_bytes = sum(one.stat().st_size for one in _files(building))
        # Again: it may have come in the minutes since.
        _refuse_existing(path, kind, overwrite=options.overwrite)
        _publish(building, path, shipment)
    finally:
        durable.remove(building)
    return ShippedModel(
        path=path,
        format=kind,
        description=sidecar(path, ".json"),
        card=sidecar(path, ".md"),
        size_bytes=size_bytes,
        check=check,
    )


def _require_packages(kind: ModelFormat) -> None:
    """Refuse at once what could not be written or checked later."""
    for package in ("tf2onnx", "onnxruntime") if kind == "onnx" else ():
        try:
            with quiet_startup():  # tf2onnx loads TensorFlow
                importlib.import_module(package)
        except ImportError as error:
            raise MissingDependency(
                f"an ONNX file needs the package {package}: {error}",
                next_step="pip install 'featurestore[onnx]', or name a .keras file",
            ) from error


def _refuse_existing(path: Path, kind: ModelFormat, *, overwrite: bool) -> None:
    if not overwrite:
        for one in (path, sidecar(path, ".json"), sidecar(path, ".md")):
            if one.exists():
                raise Conflict(
                    f"{one} exists already", next_step="choose another name or add --overwrite"
                )
    elif path.exists():
        same = (path / _SAVED_MODEL).is_file() if kind == "savedmodel" else path.is_file()
        if not same:  # --overwrite must not empty somebody's folder
            raise Conflict(
                f"{path} exists and is no {kind} model: it is not replaced",
                next_step="choose another name",
            )


def _record_of(run: Run, cache: Path, *, needed: bool) -> Record | None:
    catalogue = Catalogue(cache)
    try:
        return catalogue.find(run.features.fingerprint)
    except NotFound as error:
        if (other := _of_the_same_images(run, catalogue)) is not None:
            return other
        if not needed:
            return None
        raise NotFound(
            f"the feature set of run {run.id} is not in cache {cache}: {run.features.name}, "
            f"fingerprint {run.features.fingerprint[:12]}",
            next_step="embed the dataset again; or name the weights and leave the model "
            "unchecked: --weights FILE --no-check",
        ) from error


def _of_the_same_images(run: Run, catalogue: Catalogue) -> Record | None:
    """Return a set that says as much of a run's images and weights as the run's own.

    That is one with other views, or none; of a fine-tuning that was streamed, whose own features no
    set holds, the set that its starting run was trained on.
    """
    own = set_fingerprint(run.features.manifest_fingerprint, recipe_of(run).clean)
    found = [
        record
        for record in catalogue.records()
        if set_fingerprint(record.manifest_fingerprint, record.recipe.clean)
        in (own, run.features.comparable)
    ]
    return max(found, key=lambda record: record.sequence, default=None)


def _in_float32(head: Head) -> Head:
    """Return a head that computes as the shipped network does: all but a fine-tuned one do."""
    if not isinstance(head.settings, FineTuneSettings):
        return head
    from featurestore.training.tail import FineTunedHead

    return cast(FineTunedHead, head).in_float32()


def _assemble(
    run: Run, head: Head, recipe: Recipe, *, weights: str
) -> tuple[Any, Callable[[Any], Any]]:
    """Return the whole model, and what turns images into features in float32 without it."""
    with quiet_startup():
        from featurestore.shipping.head_layers import head_layers
        from featurestore.shipping.network import assemble

    layers = head_layers(head, name=run.head)  # before the backbone, which takes longer to refuse
    network = cast(
        "Network", network_of(dataclasses.replace(recipe, precision="float32"), weights=weights)
    )
    return assemble(network.model, layers, recipe=recipe), network.embed


def _write(model: Any, building: Path, kind: ModelFormat, run: Run) -> None:
    from featurestore.shipping.formats import write_model

    write_model(model, building, model_format=kind, metadata=identity(run))


def _read(building: Path, kind: ModelFormat) -> Predict:
    from featurestore.shipping.formats import read_model

    return read_model(building, model_format=kind)


def _files(building: Path) -> list[Path]:
    if building.is_file():
        return [building]
    return sorted(path for path in building.rglob("*") if path.is_file())


def _digests(building: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file, named as it will be called."""
    return {
        name if path == building else f"{name}/{path.relative_to(building).as_posix()}": (
            sha256_file(path)
        )
        for path in _files(building)
    }


def _sync(building: Path) -> None:
    if building.is_dir():
        durable.sync_tree(building)
    else:
        durable.sync_file(building)


def _publish(building: Path, path: Path, shipment: Shipment) -> None:
    """Write the description, then give the model its name: a named model has its description.

    Between the two an older model that is replaced stands beside the new description, whose
    digests say so.
    """
    beside = {sidecar(path, ".json"): description(shipment), sidecar(path, ".md"): card(shipment)}
    fresh = [one for one in (path, *beside) if not one.exists()]
    try:
        for one, content in beside.items():
            durable.replace_file(one, content)
        durable.put_in_place(building, path)
    except BaseException:
        for one in fresh:
            durable.remove(one)
        raise
