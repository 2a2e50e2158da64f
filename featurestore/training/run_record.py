"""What a run.json must hold: every field is checked before anything is made of it.

A record may be damaged, edited by hand or made by somebody else: a wrong type must not end a list
of runs, and a name in it must not lead out of the run's folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from featurestore.augmentation import Augmentation
from featurestore.errors import InvalidInput
from featurestore.manifest import SPLITS
from featurestore.recipe import Views

CACHED, END_TO_END, FINE_TUNE = "cached", "end-to-end", "fine-tune"
_MODELS = ("model.keras", "model.skops")
_ADDED_IN_2: Mapping[str, object] = {"shuffled_labels": False, "chosen": {}}
_ADDED_IN_3: Mapping[str, object] = {
    "path_taken": CACHED,
    "augmentation": None,
    "started_from": None,
    "parameters": {},
}
PATHS = (CACHED, END_TO_END, FINE_TUNE)
_HEADS = {END_TO_END: "dense", FINE_TUNE: "fine-tuned"}
_SHOWN = 80


def predictions_name(split: str) -> str:
    """Return the name of the file that holds a split's probabilities."""
    return f"probabilities-{split}.npz"


def parse_record(content: bytes) -> dict[str, Any]:
    """Return the fields of a record.

    Raises
    ------
    ValueError
        It is no JSON object; NaN and infinity are no JSON.
    """
    try:
        fields = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object, found {type(fields).__name__}")
    return fields


def upgraded(fields: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the fields of a record of an earlier format as today's has them.

    Format 1: the dense head scaled nothing before it had the setting `scaled`. Formats 1 and 2 knew
    cached features without views alone.
    """
    found = dict(fields)
    if version < 2:
        found = {**_ADDED_IN_2, **found}
        if found.get("head") == "dense" and isinstance(found.get("settings"), dict):
            found["settings"] = {"scaled": False, **found["settings"]}
    if version < 3:
        found = {**_ADDED_IN_3, **found}
        features = found.get("features")
        if isinstance(features, dict) and "fingerprint" in features:
            found["features"] = {"comparable": features["fingerprint"], **features}
    return found


def check_record(fields: Mapping[str, Any]) -> None:
    """Refuse a record that lacks or adds a field, or of which one is not what a run writes.

    What the settings and the recipe mean is asked of their classes.

    Raises
    ------
    ValueError
        The message names the field, what is expected there and what is found.
    """
    _check_fields(fields, _RUN, within="")
    _check_fields(fields["features"], _FEATURES, within="features.")
    strange = sorted(set(fields["files"]) - {*_MODELS, *map(predictions_name, SPLITS)})
    if strange:
        raise ValueError(f"files: no run has a file {_shown(strange[0])}")
    rows = fields["features"]["rows"]
    unknown = [split for split, found in fields["metrics"].items() if found and split not in rows]
    if unknown:
        raise ValueError(f"metrics: of {', '.join(unknown)}, of which features.rows has no rows")
    _check_path(fields)


def _check_path(fields: Mapping[str, Any]) -> None:
    """Refuse a record whose path does not go with what else it says of it."""
    path, augmentation, head = fields["path_taken"], fields["augmentation"], fields["head"]
    tuned = path == FINE_TUNE
    if head != _HEADS.get(path, head) or (head == _HEADS[FINE_TUNE] and not tuned):
        expected = _HEADS.get(path, "one that is chosen by name")
        raise ValueError(f"head: expected {expected} of path {path}, found {_shown(head)}")
    if (fields["started_from"] is not None) != tuned:
        expected = "the id of a run" if tuned else "null"
        raise ValueError(
            f"started_from: expected {expected} of path {path}, "
            f"found {_shown(fields['started_from'])}"
        )
    if augmentation is not None and not tuned and ("views" in augmentation) != (path == CACHED):
        expected = "stored views" if path == CACHED else "ranges and a seed"
        raise ValueError(
            f"augmentation: expected {expected} of path {path}, found {_shown(augmentation)}"
        )


class _Kind(NamedTuple):
    expected: str
    holds: Callable[[Any], bool]


def _check_fields(fields: Mapping[str, Any], kinds: Mapping[str, _Kind], *, within: str) -> None:
    apart = [
        *(f"it lacks {within}{name}" for name in kinds if name not in fields),
        *(f"it adds {within}{name}" for name in fields if name not in kinds),
    ]
    if apart:
        raise ValueError(", ".join(apart))
    for name, kind in kinds.items():
        if not kind.holds(fields[name]):
            raise ValueError(
                f"{within}{name}: expected {kind.expected}, found {_shown(fields[name])}"
            )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_number(value: object) -> bool:
    """Whether it is a finite number: an integer may be too large for a float, and 1e999 is inf."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list(value: object, of: Callable[[Any], bool], *, least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least and all(map(of, value))


def _is_object(value: object, of: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(of, value.values()))


def _by_split(value: object, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and set(value) <= set(SPLITS) and _is_object(value, of)


def _is_score(value: object) -> bool:
    return value is None or _is_object(value, lambda each: each is None or _is_number(each))


def _are_times(value: object) -> bool:
    return isinstance(value, dict) and "fit" in value and _is_object(value, _is_number)


def _are_files(value: object) -> bool:
    return (
        isinstance(value, dict)
        and sum(name in _MODELS for name in value) == 1
        and _is_object(value, _is_digest)
    )


def _is_augmentation(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    try:
        if "views" in value:
            Views.from_dict(value)
        else:
            Augmentation.from_dict({name: value[name] for name in value if name != "seed"})
    except InvalidInput:
        return False
    return _is_whole(value.get("seed"), least=0)


def _is_run_id(value: object) -> bool:
    """Whether it may be the name of a run's folder: a record must not lead anywhere else."""
    return isinstance(value, str) and re.fullmatch(r"[\w-][\w.-]*", value) is not None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


_TEXT = _Kind("text", _is_text)
_OBJECT = _Kind("a JSON object", _is_object)

_RUN: Mapping[str, _Kind] = {
    "id": _TEXT,
    "created": _Kind("a time in ISO 8601", _is_time),
    "head": _TEXT,
    "settings": _OBJECT,
    "seed": _Kind("a whole number of at least 0", lambda value: _is_whole(value, least=0)),
    "shuffled_labels": _Kind("true or false", lambda value: isinstance(value, bool)),
    "path_taken": _Kind(f"one of {', '.join(PATHS)}", lambda value: value in PATHS),
    "augmentation": _Kind("null, or ranges and a seed, or with views", _is_augmentation),
    "started_from": _Kind(
        "null or the id of a run", lambda value: value is None or _is_run_id(value)
    ),
    "parameters": _Kind(
        "whole numbers of at least 0 by name",
        lambda value: _is_object(value, lambda each: _is_whole(each, least=0)),
    ),
    "features": _OBJECT,
    "metrics": _Kind(
        f"for each of {', '.join(SPLITS)} null or numbers by name",
        lambda value: _by_split(value, _is_score),
    ),
    "history": _Kind(
        "lists of one number or more",
        lambda value: _is_object(value, lambda each: _is_list(each, _is_number, least=1)),
    ),
    "chosen": _OBJECT,
    "notes": _Kind("a list of texts", lambda value: _is_list(value, _is_text)),
    "versions": _Kind("texts by name", lambda value: _is_object(value, _is_text)),
    "seconds": _Kind("numbers by name, fit among them", _are_times),
    "files": _Kind(f"SHA-256 by name, one of {' and '.join(_MODELS)} among them", _are_files),
}
_FEATURES: Mapping[str, _Kind] = {
    "name": _TEXT,
    "fingerprint": _TEXT,
    "manifest_fingerprint": _TEXT,
    "recipe_fingerprint": _TEXT,
    "recipe": _OBJECT,
    "class_names": _Kind("two texts or more", lambda value: _is_list(value, _is_text, least=2)),
    "feature_shape": _Kind(
        "whole numbers of at least 1",
        lambda value: _is_list(value, lambda each: _is_whole(each, least=1), least=1),
    ),
    "rows": _Kind(
        f"whole numbers of at least 1 by split: {', '.join(SPLITS)}",
        lambda value: _by_split(value, lambda each: _is_whole(each, least=1)),
    ),
    "comparable": _TEXT,
}
