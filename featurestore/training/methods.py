"""How runs were trained, apart from their seeds: which are the same, and what they are called.

A method is the path, the head with its settings, what the training images were varied by and, of a
fine-tuning, the method of the run that it started from.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from featurestore.augmentation import Augmentation
from featurestore.training.head_specs import head_label, settings_key
from featurestore.training.run_record import CACHED, END_TO_END, FINE_TUNE
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings

_RANGES = Augmentation().to_dict()


def method_key(run: Run) -> str:
    """Return a text that is equal for runs that differ in nothing but seeds.

    Seeds are the run's own, which streamed versions of images are drawn by too, and that of the run
    it started from. The seed of stored views is none of them: it belongs to the feature set.

    A starting run that is gone is like no other: what it was is not known.
    """
    parts: list[object] = [_own_key(run)]
    if run.started_from is not None:
        start = run.load_start()
        parts.append(run.started_from if start is None else _own_key(start))
    return json.dumps(parts)


def _own_key(run: Run) -> list[object]:
    """Return what decides a run beside its seed and the run that it started from."""
    augmentation = None if run.augmentation is None else dict(run.augmentation)
    if augmentation is not None and "views" not in augmentation:
        del augmentation["seed"]
    return [run.path_taken, settings_key(run.settings), augmentation, run.shuffled_labels]


def method_labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, no longer than needed to tell other methods apart.

    ``dense``, ``dense, 6 views``, ``end-to-end dense``, ``fine-tuned block5``; with the settings
    where those of one head on one path differ, the ranges of the augmentation where those do, and
    the start of a fine-tuning where that does. Runs of one method have one name.
    """
    first = {method_key(run): run for run in reversed(runs)}
    methods = {key: first[key] for key in dict.fromkeys(map(method_key, runs))}
    names = dict(zip(methods, _names(list(methods.values())), strict=True))
    return [names[method_key(run)] for run in runs]


def _names(runs: Sequence[Run]) -> list[str]:
    names = [f"{_subject(run)}{_variation(run)}" for run in runs]
    settings = _settings_apart(runs)
    if any(settings):
        names = [
            f"{_subject(run)}{text}{_variation(run)}"
            for run, text in zip(runs, settings, strict=True)
        ]
    names = _with_detail(names, [_ranges(run) for run in runs])
    names = _with_start(names, runs)
    names = [
        f"{name} (shuffled labels)" if run.shuffled_labels else name
        for name, run in zip(names, runs, strict=True)
    ]
    taken: dict[str, int] = defaultdict(int)
    for at, name in enumerate(names):
        taken[name] += 1
        # One class of scikit-learn may be reached by two paths.
        names[at] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


def _subject(run: Run) -> str:
    """Return what was trained, without its settings."""
    if run.path_taken == FINE_TUNE:
        return f"fine-tuned {', '.join(unfrozen(run)) or 'network'}"
    head = head_label(run.settings).partition(":")[0]
    return f"{END_TO_END} {head}" if run.path_taken == END_TO_END else head


def path_text(run: Run) -> str:
    """Return the path, with what is unusual of it: ``cached, 6 views``."""
    return f"{run.path_taken}{_variation(run)}"


def unfrozen(run: Run) -> tuple[str, ...]:
    """Return the layers or blocks that a fine-tuning was asked to train, as they were named."""
    names = getattr(run.settings, "unfreeze", ())
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _variation(run: Run) -> str:
    """Return what is unusual of a path in how training images were varied."""
    if run.augmentation is None:
        return ", not augmented" if run.path_taken == END_TO_END else ""
    views = run.augmentation.get("views")
    if views is not None:
        return f", {views} view{'' if views == 1 else 's'}"
    return "" if run.path_taken == END_TO_END else ", augmented"


def _settings_apart(runs: Sequence[Run]) -> list[str]:
    """Return ``:name=value`` of what differs from the defaults, where runs of one kind differ.

    Defaults are those of cached features. On another path, what differs among its runs is told.
    """
    kinds = defaultdict(list)
    for run in runs:
        kinds[run.path_taken, run.head, unfrozen(run)].append(run)
    texts = []
    for run in runs:
        alike = kinds[run.path_taken, run.head, unfrozen(run)]
        if len({settings_key(each.settings) for each in alike}) == 1:
            texts.append("")
        elif run.path_taken != CACHED:
            texts.append(_differing(run, alike))
        else:
            texts.append("".join(head_label(run.settings).partition(":")[1:]))
    return texts


def _differing(run: Run, alike: Sequence[Run]) -> str:
    fields = [_flat(each.settings.to_dict()) for each in alike]
    own = _flat(run.settings.to_dict())
    return "".join(
        f":{name}={_value_text(value)}"
        for name, value in own.items()
        if len({json.dumps(each.get(name)) for each in fields}) > 1
    )


def _flat(fields: Mapping[str, object]) -> dict[str, object]:
    """Put the settings within a setting beside the others, under their own names."""
    found: dict[str, object] = {}
    for name, value in fields.items():
        found |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return found


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _with_detail(names: Sequence[str], details: Sequence[str]) -> list[str]:
    """Add a detail to those names of which several runs have one and differ in it."""
    apart: dict[str, set[str]] = defaultdict(set)
    for name, detail in zip(names, details, strict=True):
        apart[name].add(detail)
    return [
        f"{name}{detail}" if len(apart[name]) > 1 else name
        for name, detail in zip(names, details, strict=True)
    ]


def _ranges(run: Run) -> str:
    """Return the ranges that are not the defaults, and the seed of stored views."""
    if run.augmentation is None:
        return ""
    shown = {
        name: value
        for name, value in run.augmentation.items()
        if name in _RANGES and value != _RANGES[name]
    }
    if "views" in run.augmentation:
        shown["seed"] = run.augmentation["seed"]
    text = ", ".join(f"{name} {_value_text(value)}" for name, value in shown.items())
    return f" ({text or 'default ranges'})"


def _with_start(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Add to names that several runs have what those started from, where that differs."""
    starts = [run.load_start() for run in runs]
    briefly = [_start_text(run, start, "") for run, start in zip(runs, starts, strict=True)]
    settings = [
        "" if start is None else "".join(head_label(start.settings).partition(":")[1:])
        for start in starts
    ]
    whole = [
        _start_text(run, start, text)
        for run, start, text in zip(runs, starts, settings, strict=True)
    ]
    short, long = _with_detail(names, briefly), _with_detail(names, whole)
    return [
        brief if short.count(brief) == 1 else text for brief, text in zip(short, long, strict=True)
    ]


def _start_text(run: Run, start: Run | None, settings: str) -> str:
    if start is None:
        return "" if run.started_from is None else f" from {run.started_from}"
    return f" from {_subject(start)}{settings}{_variation(start)}"


def seeded_labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run, no longer than needed: its method's, with the seed or the id."""
    names = method_labels(runs)
    seeded = [f"{name}, seed {run.seed}" for name, run in zip(names, runs, strict=True)]
    return [
        name if names.count(name) == 1 else long if seeded.count(long) == 1 else run.id
        for name, long, run in zip(names, seeded, runs, strict=True)
    ]


def trained_weights(run: Run) -> int | None:
    """Return how many weights the fit of a dense or fine-tuned run moved; None of other heads."""
    if run.path_taken == FINE_TUNE:
        return run.parameters.get("trainable")
    if not isinstance(run.settings, DenseSettings):
        return None
    classes = len(run.features.class_names)
    outputs = 1 if classes == 2 else classes  # one sigmoid tells two classes apart
    units = run.settings.units
    return units * (math.prod(run.features.feature_shape) + 1 + outputs) + outputs


def weights_text(run: Run) -> str | None:
    """Return how many weights were trained, of how many; None where it is not known."""
    trained = trained_weights(run)
    if trained is None:
        return None
    total, before = run.parameters.get("total"), run.parameters.get("trainable_before")
    of = "" if total is None else f" of {total:,}"
    return f"{trained:,}{of}" + ("" if before is None else f" (before: {before:,})")


def pixels_text(run: Run) -> str:
    """Return what the path did with the pixels and what it trained, in sentences."""
    say = {END_TO_END: _end_to_end_text, FINE_TUNE: _fine_tune_text}.get(
        run.path_taken, _cached_text
    )
    weights = weights_text(run)
    return say(run) if weights is None else f"{say(run)} Weights trained: {weights}."


def _cached_text(run: Run) -> str:
    images = "The images"
    if run.augmentation is not None:
        images = f"The images and, for training, {_views_text(run.augmentation)} of each"
        images += f" ({ranges_text(run.augmentation)})"
    return (
        f"{images} went through the frozen network once, when they were embedded; the head was "
        "trained on those features."
    )


def _end_to_end_text(run: Run) -> str:
    return (
        f"In every epoch the training images were decoded, {_shown_text(run)}, and went forward "
        "through the frozen network; only the head was trained."
    )


def _fine_tune_text(run: Run) -> str:
    layers = ", ".join(unfrozen(run))
    cut = getattr(run.settings, "cut", "the cut")
    text = f"{layers} of the network and the head were trained, from run {run.started_from}. "
    if run.augmentation is None:
        return f"{text}They saw each image's features of {cut}, the last frozen layer."
    if "views" in run.augmentation:
        return (
            f"{text}They saw the features of {_views_text(run.augmentation)} of each training "
            f"image ({ranges_text(run.augmentation)}) at {cut}, the last frozen layer, embedded "
            "once."
        )
    return (
        f"{text}In every epoch the training images were decoded, {_shown_text(run)}, and went "
        f"forward through the frozen layers, up to {cut}."
    )


def _shown_text(run: Run) -> str:
    if run.augmentation is None:
        return "shown as they are"
    return f"shown anew at random ({ranges_text(run.augmentation)})"


def _views_text(augmentation: Mapping[str, object]) -> str:
    count = augmentation["views"]
    return "one random version" if count == 1 else f"{count} random versions"


def ranges_text(augmentation: Mapping[str, object]) -> str:
    """Return what an image was varied by, in words: ``turned by up to 40°, …``."""
    parts: list[tuple[str, Callable[[float], str]]] = [
        ("rotation", lambda value: f"turned by up to {value:g}°"),
        ("shift", lambda value: f"shifted by up to {100 * value:g} %"),
        ("shear", lambda value: f"sheared by up to {value:g}°"),
        ("zoom", lambda value: f"zoomed by up to {100 * value:g} %"),
    ]
    texts = [
        say(float(str(augmentation[name])))
        for name, say in parts
        if float(str(augmentation.get(name, 0)))
    ]
    if augmentation.get("flip"):
        texts.append("mirrored half of the time")
    return ", ".join(texts) or "not moved at all"
