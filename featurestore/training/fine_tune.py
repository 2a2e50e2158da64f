"""Fine-tuning: layers of the backbone trained on, from the head of a run.

What stays frozen, up to the last frozen layer, runs forward only. Its features are those of an
embedding cut there: where one is committed, nothing is decoded and the frozen part does not run.
Else images are run through it, and what trains is the same code with the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from featurestore.backbones.quiet import quiet_startup
from featurestore.backbones.table import get_spec
from featurestore.backbones.weights import parse_weights
from featurestore.catalogue import Catalogue, Record
from featurestore.embedding.backbone import network_of
from featurestore.embedding.command import embed_command, with_views
from featurestore.errors import InvalidInput, NotFound
from featurestore.features import FeatureSet, open_record
from featurestore.recipe import Recipe
from featurestore.training.classify import recipe_of
from featurestore.training.contract import SampleRows
from featurestore.training.fine_tune_settings import FineTuneRequest, FineTuneSettings
from featurestore.training.resumable import train_resumably
from featurestore.training.run_record import FINE_TUNE
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings
from featurestore.training.streamed import (
    AugmentedRows,
    HashedRows,
    StreamOptions,
    backbone_weights,
    bytes_for_images,
    open_pixels,
    stream_network,
)
from featurestore.training.streamed_features import StreamedFeatures
from featurestore.training.train import Passage, TrainOptions
from featurestore.training.views import USUAL_VIEWS

if TYPE_CHECKING:
    from featurestore.backbones.network import Network
    from featurestore.training.dense import DenseHead
    from featurestore.training.tail import FineTunedHead

__all__ = ["FineTuneRequest", "fine_tune"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What `fine_tune` was called with."""

    start: Run
    request: FineTuneRequest
    cache: Path
    options: TrainOptions
    streaming: StreamOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is trained.

    Parameters
    ----------
    recipe
        Of the features of the last frozen layer.
    frozen
        The network of that recipe.
    weights
        Of the backbone, as on the command line.
    """

    recipe: Recipe
    frozen: Network
    weights: str
    head: FineTunedHead
    parameters: Mapping[str, int]


def fine_tune(
    start: Run,
    request: FineTuneRequest,
    *,
    cache: Path,
    options: TrainOptions,
    streaming: StreamOptions,
) -> Run:
    """Train the named layers of a run's backbone together with its head, and write the run.

    Features of the last frozen layer are taken from the cache where a set of the same images is
    embedded there, with views where `options.views` asks for them. Else, and for an augmentation,
    images are streamed through the frozen part. A checkpoint is kept after every epoch; the same
    call after a kill goes on from there, and ends as an undisturbed one.

    Parameters
    ----------
    start
        A dense head on cached features, or one trained end to end.
    options
        `checkpoints` is not used: they are kept below the cache.

    Returns
    -------
    The run, durable below ``cache/runs``: a head on features of the last frozen layer.

    Raises
    ------
    InvalidInput
        The starting run has another head or was a control, or a control is asked for; no layer is
        of that name; sets with other views will do equally; as `train`.
    NotFound
        The starting run's feature set, its images or its weights are gone, or no set with so many
        views is embedded at the last frozen layer.
    Conflict
        The weights are not those of the starting run, or another process is at the same training.
    """
    work = _Work(start=start, request=request, cache=cache, options=options, streaming=streaming)
    _check(work)
    with open_record(_starting_record(start, cache)) as source:
        plan = _plan(work, source)
        record = _committed(work, plan, source)
        if work.request.every_view and record is not None:
            seen = dataclasses.replace(options, views=record.views)
            work = dataclasses.replace(work, options=seen)
        if request.tell is not None:
            request.tell(_told(work, plan, source, record))
        if record is None:
            return _from_images(work, plan, source)
        with open_record(record) as features:
            return _train(work, plan, features)


def _check(work: _Work) -> None:
    start = work.start
    if start.head != DenseSettings.head:
        raise InvalidInput(
            f"run {start.id}: expected a {DenseSettings.head} head to start from, "
            f"found {start.head}",
            next_step=f"fs train {start.features.name} --head {DenseSettings.head}, "
            "then start from that run",
        )
    if start.shuffled_labels:
        raise InvalidInput(
            f"run {start.id} is a control: its head has learned shuffled labels",
            next_step="start from a run without --shuffle-labels",
        )
    if work.options.shuffle_labels:
        raise InvalidInput(
            "a fine-tuning with shuffled labels is no control: it starts from a head that has "
            "learned the true ones",
            next_step=f"fs train {start.features.name} --head {start.head} --shuffle-labels is one",
        )
    if _wants_views(work) and work.streaming.augmentation is not None:
        raise InvalidInput(
            "expected stored views, or images augmented in every epoch; found both",
            next_step="leave out --views or --augment",
        )


def _starting_record(start: Run, cache: Path) -> Record:
    try:
        return Catalogue(cache).find(start.features.fingerprint)
    except NotFound as error:
        raise NotFound(
            f"the feature set of run {start.id} is not in cache {cache}: {start.features.name}, "
            f"fingerprint {start.features.fingerprint[:12]}",
            next_step="embed that dataset again; the same images under the same recipe are the "
            "same feature set",
        ) from error


def _plan(work: _Work, source: FeatureSet) -> _Plan:
    """Build the starting network, and find where it is cut and what is trained behind the cut."""
    with quiet_startup():
        from featurestore.backbones.cuts import last_frozen_layer, unfrozen_layers
        from featurestore.backbones.network import NetworkSettings, load_network
        from featurestore.training.tail import FineTunedHead
        from featurestore.training.tail_network import count_parameters, start_from

    recipe = recipe_of(work.start).clean
    weights = backbone_weights(source, work.streaming)
    dense = cast("DenseHead", work.start.load_head()).model_
    base = cast("Network", network_of(recipe, weights=weights)).model
    unfrozen = unfrozen_layers(base, work.request.unfreeze)
    cut = last_frozen_layer(base, unfrozen)
    frozen = load_network(
        NetworkSettings(
            spec=get_spec(recipe.backbone),
            weights=parse_weights(weights),
            layer=cut,
            size=recipe.size,
            precision=recipe.precision,
            dtype=recipe.dtype,
            batch_size=work.streaming.batch_size,
        )
    )
    settings = _settings(work, recipe, cut)
    return _Plan(
        recipe=dataclasses.replace(
            recipe, layer=cut, pooling="none", weights_sha256=frozen.weights_sha256
        ),
        frozen=frozen,
        weights=weights,
        head=FineTunedHead(settings, start_from(settings, base, dense)),
        parameters=count_parameters(base, dense, unfrozen),
    )


def _settings(work: _Work, recipe: Recipe, cut: str) -> FineTuneSettings:
    request, dense = work.request, cast(DenseSettings, work.start.settings)
    return FineTuneSettings(
        backbone=recipe.backbone,
        size=recipe.size,
        layer=recipe.layer,
        pooling=recipe.pooling,
        precision=recipe.precision,
        cut=cut,
        unfreeze=tuple(request.unfreeze),
        statistics=request.statistics,
        units=dense.units,
        dropout=dense.dropout,
        scaled=dense.scaled,
        epochs=request.epochs,
        batch_size=request.batch_size,
        optimizer=request.optimizer,
        learning_rate=request.learning_rate,
        patience=request.patience,
        class_weight=request.class_weight,
    )


def _wants_views(work: _Work) -> bool:
    return work.request.every_view or work.options.views is not None


def _committed(work: _Work, plan: _Plan, source: FeatureSet) -> Record | None:
    """Return the set of the same images at the cut that is trained on; None where none will do.

    That is the one that was named, or the newest: with enough views if views are asked for, else
    one without, if there is one. The rows of one with views are the same.

    Raises
    ------
    NotFound
        Views are asked for and no set has enough.
    InvalidInput
        Sets have enough whose views are drawn from other ranges, or by another seed.
    """
    found = [
        record
        for record in Catalogue(work.cache).records()
        if record.recipe.clean == plan.recipe
        and record.manifest_fingerprint == source.manifest_fingerprint
    ]
    found = [each for each in found if each.fingerprint == work.request.features] or found
    if not _wants_views(work):
        return max(found, key=lambda each: (not each.views, each.sequence), default=None)
    least = work.options.views or 1
    enough = [record for record in found if record.views >= least]
    if not enough:
        raise _too_few_views(work, plan, source, found)
    by_drawing = {
        each.recipe.augmentation.drawn: each.name for each in enough if each.recipe.augmentation
    }
    if len(by_drawing) > 1:
        names = sorted(by_drawing.values())
        raise InvalidInput(
            f"{len(names)} feature sets have views of these images at layer {plan.recipe.layer}, "
            f"drawn from other ranges or by another seed: {', '.join(names)}",
            next_step=f"say which: fs train {names[0]} --path {FINE_TUNE} …",
        )
    return max(enough, key=lambda each: each.sequence)


def _too_few_views(
    work: _Work, plan: _Plan, source: FeatureSet, found: Sequence[Record]
) -> NotFound:
    most = max(found, key=lambda each: (each.views, each.sequence), default=None)
    layer = plan.recipe.layer
    if most is None or not most.views:
        message = f"no views of these images are embedded at layer {layer}"
    else:
        message = f"feature set {most.name}, of layer {layer}, has {most.views} views"
    recipe = with_views(
        plan.recipe if most is None else most.recipe, work.options.views or USUAL_VIEWS
    )
    return NotFound(message, next_step=_embed_command(work, plan, source, recipe))


def _told(work: _Work, plan: _Plan, source: FeatureSet, record: Record | None) -> str:
    layer = plan.recipe.layer
    if work.streaming.augmentation is not None:
        return f"every epoch runs augmented images through the frozen layers, up to {layer}"
    if record is not None:
        return f"training from the features of {record.name}: the layers up to {layer} do not run"
    return (
        f"no features of layer {layer} are embedded: images run through the frozen layers up to "
        f"it. To do so once for every such training: {_embed_command(work, plan, source)}"
    )


def _embed_command(
    work: _Work, plan: _Plan, source: FeatureSet, recipe: Recipe | None = None
) -> str:
    """Return what embeds the starting run's images at the cut, as it would be typed."""
    return embed_command(
        source.record,
        recipe=recipe or plan.recipe,
        weights=plan.weights,
        images=work.streaming.images,
        cache=work.cache,
    )


def _from_images(work: _Work, plan: _Plan, source: FeatureSet) -> Run:
    """Train on features of the cut that are computed now."""
    # The rows that are computed are kept in one half, and held by the fit in the other.
    half = dataclasses.replace(work.options, memory_bytes=work.options.memory_bytes // 2)
    features = StreamedFeatures(
        source,
        plan.recipe,
        stream_network(source, plan.recipe, _streaming(work, plan)),
        options=work.streaming,
        memory_bytes=half.memory_bytes,
    )
    return _train(dataclasses.replace(work, options=half), plan, features, source)


def _streaming(work: _Work, plan: _Plan) -> StreamOptions:
    """Return options by which the network that is loaded already is used."""
    if work.streaming.network is not None:
        return work.streaming
    return dataclasses.replace(work.streaming, network=lambda _: plan.frozen)


def _train(
    work: _Work,
    plan: _Plan,
    features: FeatureSet | StreamedFeatures,
    source: FeatureSet | None = None,
) -> Run:
    """Train on the rows of `features`; `source` is where their images are, if not there."""
    options, augmentation = work.options, work.streaming.augmentation
    shown = None if augmentation is None else {**augmentation.to_dict(), "seed": options.seed}
    passage = Passage(
        path=FINE_TUNE,
        head=plan.head,
        train=_augmented(work, plan, features, source),
        augmentation=shown,
        started_from=work.start.id,
        parameters=plan.parameters,
        comparable=work.start.features.comparable,
    )
    return train_resumably(
        features,
        plan.head.settings,
        cache=work.cache,
        options=options,
        passage=passage,
        resumption=work.streaming.resumption,
    )


def _augmented(
    work: _Work,
    plan: _Plan,
    features: FeatureSet | StreamedFeatures,
    source: FeatureSet | None,
) -> SampleRows | None:
    """Return training rows that differ by epoch; None where the rows of the features are meant."""
    augmentation = work.streaming.augmentation
    if augmentation is None:
        return None
    images = source if source is not None else cast(FeatureSet, features)
    return AugmentedRows(
        cast(HashedRows, features["train"]),
        open_pixels(
            images,
            "train",
            plan.recipe,
            options=work.streaming,
            memory_bytes=bytes_for_images(features, work.options.memory_bytes),
        ),
        stream_network(images, plan.recipe, _streaming(work, plan)),
        augmentation=augmentation,
        seed=work.options.seed,
    )
