"""A fit's numbers as TensorBoard shows them, written while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import tensorflow as tf

from featurestore.errors import InvalidInput

# `tf.summary.scalar` needs the package tensorboard, which TensorFlow no longer brings along: this
# is the one thing it adds to `tf.summary.write`.
# Source: tensorboard/plugins/scalar/metadata.py, PLUGIN_NAME.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


class EventFiles:
    """Event files below ``<folder>/<run-id>/{train,validation}``, a `Progress` to call.

    Tags and steps are those of Keras's TensorBoard callback: ``epoch_loss`` and
    ``epoch_accuracy``, the first epoch at step 0. Each epoch is on its way to disk when the call
    returns, so that a running TensorBoard shows it.

    Raises
    ------
    InvalidInput
        The files cannot be written.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / run_id
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def __call__(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Write one epoch's numbers, under the names of `Head.history_`."""
        try:
            for name, value in numbers.items():
                split, _, metric = name.partition("_")
                with self._writer(split).as_default():
                    tf.summary.write(
                        f"epoch_{metric}",
                        tf.constant(value, tf.float32),
                        step=done - 1,
                        metadata=_SCALAR,
                    )
            for writer in self._writers.values():
                writer.flush()
        except (tf.errors.OpError, OSError) as error:
            raise InvalidInput(
                f"event files cannot be written to {self.path}: {error}",
                next_step="free some space, or choose another folder with --tensorboard",
            ) from error

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            folder = self.path / split
            folder.mkdir(parents=True, exist_ok=True)  # its error says more than TensorFlow's
            self._writers[split] = tf.summary.create_file_writer(str(folder))
        return self._writers[split]
