"""`fs train`: a head on cached features, on images augmented anew, or a fine-tuned network."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import click

from featurestore.augmentation import Augmentation
from featurestore.catalogue import Quarantined
from featurestore.embedding.command import embed_settings
from featurestore.embedding.embed import embed as embed_dataset
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import FeatureSet, open_features, open_record
from featurestore.training.checkpoints import Resumption
from featurestore.training.contract import NotConverged
from featurestore.training.end_to_end import end_to_end_settings, train_end_to_end
from featurestore.training.fine_tune import FineTuneRequest, fine_tune
from featurestore.training.heads import HEADS, build_settings, has_epochs, setting_names
from featurestore.training.runs import Run, find_run
from featurestore.training.settings import DenseSettings
from featurestore.training.streamed import StreamOptions
from featurestore.training.train import TrainOptions
from featurestore.training.train import train as train_head
from featurestore.training.views import AskedViews, count_views
from featurestore_cli.dataset_argument import Meant, is_path, meant_by, start_images
from featurestore_cli.epoch_line import EpochLine
from featurestore_cli.head_options import head_option, setting_options
from featurestore_cli.options import cache_option, json_option, memory_option
from featurestore_cli.output import say, say_quarantined
from featurestore_cli.path_options import GroupedCommand, foreign_options, path_options
from featurestore_cli.progress import progress_for, progress_line
from featurestore_cli.recipe_options import (
    EMBED_OPTIONS,
    check_split,
    embed_fields,
    recipe_options,
    split_seed_option,
)
from featurestore_cli.trained import print_trained


@click.command(cls=GroupedCommand)
@click.argument("dataset", required=False)
@path_options
@head_option
@setting_options
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of everything that a training draws.",
)
@memory_option(
    help="Most that rows, what a head makes of them, and decoded images that are kept may take in "
    "memory; of sklearn.module.Class only the rows and their copies are counted.",
)
@click.option(
    "--shuffle-labels",
    is_flag=True,
    help="A control: permute the training labels by the seed; scores must be those of chance.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write event files for TensorBoard to DIRECTORY/<run-id>, each epoch as it ends.",
)
@recipe_options
@split_seed_option
@cache_option
@json_option
def train(
    dataset: str | None,
    cache: Path,
    *,
    path_taken: str,
    head: str | None,
    seed: int,
    memory_bytes: int,
    shuffle_labels: bool,
    tensorboard: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a classifier on DATASET and record it as a run.

    DATASET is a feature set's name, or a folder or manifest file, which is embedded first unless it
    is already: a folder that changed since is embedded again, as it was before. With --path
    fine-tune it may be left out, since the run says what it was trained on; a name then chooses
    among feature sets of the same images, and a folder says where the run's images lie.

    The test split is read once, after the fit. A training of images that is killed goes on from its
    last epoch when the same command is given again. Options that mean nothing for a path or a head
    are refused with it.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    head = _head(head, path_taken)
    asked = _Asked(dataset, cache, path_taken, head, given)
    asked.check(tensorboard, shuffle_labels=shuffle_labels)
    with progress_line() as show, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # said below, from the run's notes
        line = EpochLine(show)
        work = TrainOptions(
            seed=seed,
            memory_bytes=memory_bytes,
            shuffle_labels=shuffle_labels,
            progress=None if show is None else line.epoch,
            tensorboard=tensorboard,
        )
        run, lost = asked.train(work, line)
    for note in run.notes:
        say(f"note: {note}")
    print_trained(run, as_json=as_json)
    return say_quarantined(lost, feature_set=run.features.name)


def _head(head: str | None, path: str) -> str:
    if head is not None and path != "cached" and head != DenseSettings.head:
        raise click.UsageError(
            f"--head {head}: path {path} trains a dense head only; other heads take stored views "
            "(fs embed --views K, then fs train --views K)"
        )
    if head is None and path == "cached":
        raise click.UsageError(f"Missing option '--head': one of {', '.join(HEADS)}")
    return head or DenseSettings.head


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the command was asked: `given` are the options that were, by the names they pass by."""

    dataset: str | None
    cache: Path
    path: str
    head: str
    given: Mapping[str, Any]

    def check(self, tensorboard: Path | None, *, shuffle_labels: bool) -> None:
        """Refuse what means nothing, or is missing, before anything is read."""
        given, head = self.given, self.head
        if self.dataset is None and self.path != "fine-tune":
            raise click.UsageError("Missing argument 'DATASET'")
        embeds = self.path != "fine-tune" and is_path(self.dataset)
        foreign = foreign_options(
            list(given),
            path=self.path,
            of_head=setting_names(head),
            of_dataset=(*EMBED_OPTIONS, "workers") if embeds else (),
        )
        if tensorboard is not None and not has_epochs(head):
            foreign.append("tensorboard")
        if foreign:
            raise click.UsageError(self._refusal(foreign))
        if "split_seed" in given and "split" not in given:
            raise click.UsageError("--split-seed: it is the seed of --split, which is not given")
        if "c" in given and "tune" in given:
            raise click.UsageError("--C: not together with --tune, which chooses it")
        if head == "logistic" and "folds" in given and "tune" not in given:
            raise click.UsageError("--folds: only with --tune")
        if self.path == "fine-tune":
            if shuffle_labels:
                raise click.UsageError(
                    "--shuffle-labels: no control with --path fine-tune, whose head has learned "
                    "the true labels"
                )
            for option, flag in (("start", "--from"), ("unfreeze", "--unfreeze")):
                if option not in given:
                    raise click.UsageError(f"Missing option '{flag}' of --path fine-tune")

    def train(self, options: TrainOptions, line: EpochLine) -> tuple[Run, tuple[Quarantined, ...]]:
        """Return the run, and what was left out of a dataset that was embedded for it."""
        if self.path == "fine-tune":
            return self._fine_tune(options, line), ()
        with ExitStack() as stack:
            settings = (
                build_settings(self.head, self._of_head())
                if self.path == "cached"
                else end_to_end_settings(self._of_head())
            )
            features, lost = self._open(stack)
            if self.path == "cached":
                options = dataclasses.replace(options, views=self._views(features))
                return train_head(features, settings, cache=self.cache, options=options), lost
            dense = cast(DenseSettings, settings)
            line.expect(dense.epochs, len(features["train"]) if "train" in features.splits else 0)
            streaming = self._streaming(line, Augmentation())
            run = train_end_to_end(
                features,
                dense,
                cache=self.cache,
                options=options,
                streaming=dataclasses.replace(streaming, images=self._images(features)),
            )
            return run, lost

    def _fine_tune(self, options: TrainOptions, line: EpochLine) -> Run:
        start = find_run(self.given["start"], cache=self.cache)
        views: AskedViews | None = self.given.get("views")
        meant = start_images(
            self.dataset,
            start,
            cache=self.cache,
            images=self.given.get("images"),
            with_views=views is not None,
        )
        names = {field.name for field in dataclasses.fields(FineTuneRequest)} - {"unfreeze"}
        request = FineTuneRequest(
            unfreeze=tuple(
                name.strip() for text in self.given["unfreeze"] for name in text.split(",")
            ),
            **{name: value for name, value in self.given.items() if name in names},
            features=meant.features,
            every_view=views == "all",
            tell=say,
        )
        line.expect(request.epochs, start.features.rows.get("train", 0))
        return fine_tune(
            start,
            request,
            cache=self.cache,
            options=options if views == "all" else dataclasses.replace(options, views=views),
            streaming=dataclasses.replace(self._streaming(line, None), images=meant.images),
        )

    def _of_head(self) -> dict[str, object]:
        names = setting_names(self.head)
        return {name: value for name, value in self.given.items() if name in names}

    def _open(self, stack: ExitStack) -> tuple[FeatureSet, tuple[Quarantined, ...]]:
        asked, meant = str(self.dataset), Meant()
        if not (is_path(asked) and any(name in self.given for name in EMBED_OPTIONS)):
            meant = meant_by(asked, cache=self.cache, with_views="views" in self.given)
        if meant.record is not None and not meant.changed:
            return stack.enter_context(open_record(meant.record)), ()
        if meant.record is None:
            check_split(Path(asked), self.given, cache=self.cache)
            settings = EmbedSettings(
                **embed_fields(self.given), seed=self.given.get("split_seed", 0)
            )
        else:
            say(f"{asked} is not as it was embedded: what is new is embedded now")
            settings = embed_settings(meant.record)
        settings = dataclasses.replace(settings, workers=self.given.get("workers"))
        with progress_for(sys.stderr) as progress:
            result = embed_dataset(asked, settings, cache=self.cache, progress=progress)
        say(f"feature set {result.feature_set}: {result.computed} images embedded")
        return stack.enter_context(open_features(result.fingerprint, cache=self.cache)), (
            result.quarantined
        )

    def _views(self, features: FeatureSet) -> int | None:
        asked: AskedViews | None = self.given.get("views")
        if asked is None:
            return None
        return count_views(features.name, features.recipe, asked, record=features.record)

    def _images(self, features: FeatureSet) -> Path | None:
        """Return where the images lie: as told, or in DATASET if it is not a name for the set."""
        told: Path | None = self.given.get("images")
        if told is not None or not is_path(self.dataset):
            return told
        by_name = self.dataset in (features.name, features.name.partition("/")[0])
        recorded = Path(str(features.record.provenance.get("source", "")))
        return None if by_name and recorded.exists() else Path(str(self.dataset))

    def _streaming(self, line: EpochLine, augmentation: Augmentation | None) -> StreamOptions:
        (augmentation,) = self.given.get("augment", (augmentation,))
        return StreamOptions(
            augmentation=augmentation,
            weights=self.given.get("backbone_weights"),
            images=self.given.get("images"),
            workers=self.given.get("workers"),
            watch=line.images,
            resumption=Resumption(
                restart=self.given.get("restart", False),
                resumed=line.resumed,
                damaged=line.damaged,
            ),
        )

    def _refusal(self, foreign: list[str]) -> str:
        flags = {flag.name: flag.opts[0] for flag in train.params}
        shown = ", ".join(flags[option] for option in foreign)
        if all(option in EMBED_OPTIONS for option in foreign) and self.path != "fine-tune":
            return f"{shown}: only where DATASET is a folder or manifest file to embed"
        if self.path == "cached" and not _of_other_path(foreign):
            hint = ", which takes its parameters in --params" if self.head not in HEADS else ""
            return f"{shown}: not an option of --head {self.head}{hint}"
        return f"{shown}: not an option of --path {self.path}"


def _of_other_path(options: list[str]) -> bool:
    known = {name for head in HEADS for name in setting_names(head)}
    return not {*known, "tensorboard", "parameters"}.intersection(options)
