"""What training costs against the plain way: one process, ratios of times taken side by side.

The dense head, against Keras's own `fit` of the same network; tuning C of the logistic head,
against scikit-learn's `LogisticRegressionCV` on the same folds; loading a split from each format
that the cache has the set in, against `np.load`. Run from the project's root:

    python benchmarks/heads.py CACHE FEATURE_SET [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from heads_dense import dense_against_keras
from heads_loading import loading_against_numpy
from heads_tuning import tuning_against_scikit_learn

from featurestore.features import FeatureSet, open_features

PARTS: dict[str, Callable[[FeatureSet], dict[str, object]]] = {
    "dense": dense_against_keras,
    "tuning": tuning_against_scikit_learn,
    "loading": loading_against_numpy,
}


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("feature_set")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; all by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers = {}
    with open_features(arguments.feature_set, cache=arguments.cache) as features:
        for name in arguments.only or PARTS:
            numbers[name] = PARTS[name](features)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
