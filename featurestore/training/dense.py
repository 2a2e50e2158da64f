"""The dense head: Keras, trained by one compiled step from features as they are stored.

Measured on 2,000 x 8,192 float16 rows, batch 20, two cores: 5 ms of processor time a step, where
`model.fit` on float32 rows takes 11. The two products with the hidden layer's weights take 1.1 and
1.5 ms of it, RMSprop, which reads and writes every weight, 1.3. Slower or no faster: one compiled
loop over the whole epoch (XLA runs its body on one core); compiling only the optimizer's step, with
TensorFlow's own products; weights stored transposed; weights in 2 to 32 parts, so that a part's
gradient might stay in the processor's cache.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import numpy as np

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import UNREADABLE, FitOptions, Rows
from featurestore.training.dense_network import (
    OPTIMIZER_SLOTS,
    build_network,
    build_optimizer,
    read_network,
)
from featurestore.training.dense_steps import Training, block_rows, class_weights
from featurestore.training.epochs import Fitted, check_stopping
from featurestore.training.network_head import NetworkHead
from featurestore.training.settings import DenseSettings
from featurestore.training.streaming import RowSource, plan_residence


class DenseHead(NetworkHead[DenseSettings]):
    """Flatten, scale, Dense(units, relu), dropout where asked for, then one sigmoid or K softmax.

    Computes in float32 whatever the features are stored in. `history_` holds what Keras's `fit`
    reports: the training loss, with class weights where asked for, and accuracy, averaged over the
    epoch while the weights move; the validation split's, unweighted, at the end of each epoch.
    Every row is trained on once an epoch, in the order of `featurestore.training.pools`.
    """

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Train for the epochs of the settings, or until early stopping ends it.

        Two fits with one seed are equal on one machine's processor, whether rows are held or read
        from disk; on a GPU only to rounding.

        Raises
        ------
        InvalidInput
            The loss became infinite or not a number; early stopping has no validation rows; the
            network, or one pool of rows, does not fit `options.memory_bytes`. Each may take it all.
        """
        settings = self.settings
        if validation is not None and not len(validation):
            validation = None
        check_stopping(settings.head, settings.patience, validation)
        _check_memory(settings, train, options)
        kept = plan_residence(
            train, validation, memory_bytes=options.memory_bytes, head=settings.head
        )
        rows = RowSource(train, held=kept.train, ahead=kept.ahead)
        seeds = np.random.SeedSequence(options.seed).generate_state(4)
        model = build_network(
            settings,
            train.feature_shape,
            options.n_classes,
            seeds=[int(seed) for seed in seeds[:3]],
            scale=1.0 / _root_mean_square(rows) if settings.scaled else 1.0,
        )
        training = Training(
            model,
            build_optimizer(settings),
            rows,
            batch_size=settings.batch_size,
            class_weights=class_weights(settings.class_weight, train.labels, options.n_classes),
        )
        return self._train(
            training,
            None if validation is None else RowSource(validation, held=kept.validation),
            shuffles=np.random.default_rng(seeds[3]),
            options=options,
        )

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read the scale and the weights of a `.keras` file, and nothing else of it.

        Raises
        ------
        IntegrityError
            The file is damaged, or its network is not that of this head.
        """
        try:
            model = read_network(path, self.settings, feature_shape, n_classes)
        except UNREADABLE as error:
            raise IntegrityError(
                f"{path}: expected the Keras model of a dense head, {feature_shape} -> "
                f"{self.settings.units} units -> {n_classes} classes: {error}",
                next_step="train the head again",
            ) from error
        self._adopt(model, Fitted())
        return self


def _check_memory(settings: DenseSettings, train: Rows, options: FitOptions) -> None:
    """Refuse a network that alone needs more memory than allowed, before it is made."""
    outputs = 1 if options.n_classes == 2 else options.n_classes
    columns = math.prod(train.feature_shape)
    weights = settings.units * (columns + 1 + outputs) + outputs
    # The weights, their gradient, the optimizer's, and those that early stopping keeps.
    copies = 2 + OPTIMIZER_SLOTS[settings.optimizer] + (settings.patience is not None)
    needed = 4 * weights * copies
    if needed > options.memory_bytes:
        raise InvalidInput(
            f"head dense: {settings.units} units on {columns} values are {weights} weights; "
            f"fitting them needs {needed / 2**30:.2f} GiB of memory, "
            f"{options.memory_bytes / 2**30:.2f} GiB allowed",
            next_step=f"fewer --units, or --memory {math.ceil(needed / 2**20)}MiB",
        )


def _root_mean_square(rows: RowSource) -> float:
    """Return what features are divided by: 1 where all are zero, and so stay so."""
    total = 0.0
    for features, _ in rows.in_order(block_rows(rows.row_values)):
        block = features.astype(np.float64)  # squares of float32 values overflow float32
        total += float(np.vdot(block, block))
    found = math.sqrt(total / (len(rows) * rows.row_values)) or 1.0
    least = float(np.finfo(np.float32).tiny)
    if not least <= found <= 1 / least:  # not a number too
        raise InvalidInput(
            f"head dense: the root mean square of the training features is {found:.3g}; expected "
            f"{least:.1g} to {1 / least:.1g}, which float32 can divide by",
            next_step="look at the features for values that are not finite, or embed again",
        )
    return found
