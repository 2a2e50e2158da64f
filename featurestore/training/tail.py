"""The fine-tuned head: the tail of a backbone with a dense head, on features of the cut layer.

It is trained by the steps of the dense head, so features that are cached at the cut and features
that are streamed to it give the same numbers. Gradients end at the cut: what lies before it only
ever ran forward.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import UNREADABLE, FitOptions, Rows, check_rows
from featurestore.training.dense_network import OPTIMIZER_SLOTS, build_optimizer
from featurestore.training.dense_steps import Training, class_weights
from featurestore.training.epochs import Fitted, check_stopping
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.network_head import NetworkHead
from featurestore.training.streaming import RowSource, plan_residence
from featurestore.training.tail_network import TailStart, build_tail, in_float32, read_tail, reseed


class FineTunedHead(NetworkHead[FineTuneSettings]):
    """A `Head` on features of the cut layer; its network is `tail_network.build_tail`'s.

    Parameters
    ----------
    start
        What `fit` begins with; None: it can be loaded, not fitted.
    """

    def __init__(self, settings: FineTuneSettings, start: TailStart | None = None) -> None:
        super().__init__(settings)
        self.start = start

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Train for the epochs of the settings, or until early stopping ends it.

        Each fit begins with the weights of the start. Two with one seed are equal on one machine's
        processor, wherever rows come from; on a GPU only to rounding.

        Raises
        ------
        InvalidInput
            There is no start; the features are not those of the cut; as `DenseHead.fit`.
        """
        settings = self.settings
        if self.start is None:
            raise InvalidInput(
                "a fine-tuned head begins with the weights of a run",
                next_step="fs train DATASET --path fine-tune --from RUN --unfreeze LAYER",
            )
        if validation is not None and not len(validation):
            validation = None
        check_stopping(settings.head, settings.patience, validation)
        kept = plan_residence(
            train, validation, memory_bytes=options.memory_bytes, head=settings.head
        )
        model = build_tail(settings, options.n_classes, scale=self.start.scale)
        check_rows(train.read(0, 0), tuple(model.input_shape[1:]))
        _check_memory(settings, model, options)
        model.set_weights(self.start.weights)
        dropout, shuffled = np.random.SeedSequence(options.seed).generate_state(2)
        reseed(model, int(dropout))
        training = Training(
            model,
            _build_optimizer(settings),
            RowSource(train, held=kept.train, ahead=kept.ahead),
            batch_size=settings.batch_size,
            class_weights=class_weights(settings.class_weight, train.labels, options.n_classes),
        )
        return self._train(
            training,
            None if validation is None else RowSource(validation, held=kept.validation),
            shuffles=np.random.default_rng(shuffled),
            options=options,
        )

    def save(self, path: Path) -> None:
        """Write a `.keras` file without optimizer state.

        Unless the statistics were trained too it holds a layer of this package, `_AsPretrained`,
        which Keras alone cannot load: `load` does, and `in_float32().model_` is a plain network.
        """
        super().save(path)

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read the head's scale and the weights of a `.keras` file, and nothing else of it.

        Raises
        ------
        IntegrityError
            The file is damaged, or its network is not that of this head.
        """
        settings = self.settings
        try:
            model = read_tail(path, settings, feature_shape, n_classes)
        except (*UNREADABLE, InvalidInput) as error:
            raise IntegrityError(
                f"{path}: expected the Keras model of {settings.backbone} from {settings.cut} to "
                f"{settings.layer} with a dense head, {feature_shape} -> {n_classes} classes: "
                f"{error}",
                next_step="train the head again",
            ) from error
        self._adopt(model, Fitted())
        return self

    def in_float32(self) -> FineTunedHead:
        """Return the same head, computing in float32 throughout."""
        model = in_float32(self.settings, self.model_)
        head = FineTunedHead(dataclasses.replace(self.settings, precision="float32"))
        head._adopt(model, Fitted())
        return head


def _build_optimizer(settings: FineTuneSettings) -> Any:
    optimizer = build_optimizer(settings)
    if settings.precision != "float16":
        return optimizer
    # Gradients of float16 features are below its least number; Keras multiplies the loss by what
    # just does not overflow, and leaves out a step that does.
    return keras.optimizers.LossScaleOptimizer(optimizer)


def _check_memory(settings: FineTuneSettings, model: Any, options: FitOptions) -> None:
    """Refuse a network whose training alone needs more memory than allowed."""
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    total = model.count_params()
    # The start, the network, and what early stopping keeps; gradients and what the optimizer keeps.
    whole = 2 + (settings.patience is not None)
    needed = 4 * (whole * total + (1 + OPTIMIZER_SLOTS[settings.optimizer]) * trained)
    if needed > options.memory_bytes:
        raise InvalidInput(
            f"head {settings.head}: training {trained} of the {total} weights from {settings.cut} "
            f"on needs {needed / 2**30:.2f} GiB of memory, "
            f"{options.memory_bytes / 2**30:.2f} GiB allowed",
            next_step=f"unfreeze less, or --memory {math.ceil(needed / 2**20)}MiB",
        )
