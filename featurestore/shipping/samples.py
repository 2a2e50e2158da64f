"""Real images of a run's feature set, with the probabilities that the run recorded for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import InvalidInput, NotFound
from featurestore.features import open_record
from featurestore.images import decode_image
from featurestore.source_images import SourceImageMissing, SourceImages
from featurestore.training.runs import Run

BATCH = 32
_SEED = 0
_ELSEWHERE = (
    "say where the photographs lie: --photographs DIR; or leave the model unchecked: --no-check"
)


class Samples:
    """Images drawn without replacement over every split of a run; always the same ones.

    Parameters
    ----------
    record
        The feature set that the run was trained on.
    count
        How many; a feature set with fewer gives all it has.
    photographs
        Where the dataset lies now, a folder or manifest file; None for where it lay.

    Raises
    ------
    NotFound
        No dataset lies there.
    """

    def __init__(
        self, run: Run, record: Record, *, count: int, photographs: Path | None = None
    ) -> None:
        self._run = run
        self._record = record
        self._images = SourceImages(record, photographs)
        if not self._images.dataset.exists():
            raise NotFound(
                f"the photographs of {record.name} are not at {self._images.dataset}",
                next_step=_ELSEWHERE,
            )
        rows = [(split, row) for split, many in run.features.rows.items() for row in range(many)]
        drawn = np.random.default_rng(_SEED).permutation(len(rows))[:count]
        self._rows = [rows[at] for at in sorted(drawn.tolist())]

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield uint8 images (n, H, W, 3) and the run's probabilities (n, K), up to 32 a batch.

        Raises
        ------
        InvalidInput
            A photograph is gone or is not the one that was embedded.
        IntegrityError
            The run's or the feature set's files are damaged.
        """
        recipe = self._record.recipe
        recorded = {split: self._run.predictions(split) for split, _ in self._rows}
        with open_record(self._record) as features:
            digests = {split: features[split].sha256 for split in recorded}
            for start in range(0, len(self._rows), BATCH):
                part = self._rows[start : start + BATCH]
                images = [
                    self._image(
                        str(recorded[split].sample_ids[row]), digests[split][row].tobytes().hex()
                    )
                    for split, row in part
                ]
                decoded = [
                    decode_image(one, size=recipe.size, interpolation=recipe.interpolation)
                    for one in images
                ]
                probabilities = [recorded[split].probabilities[row] for split, row in part]
                yield np.stack(decoded), np.stack(probabilities)

    def _image(self, sample_id: str, digest: str) -> bytes:
        try:
            return self._images.read(sample_id, sha256=digest)
        except SourceImageMissing as error:
            raise InvalidInput(
                f"a photograph of {self._record.name}: {error.message}", next_step=_ELSEWHERE
            ) from error
