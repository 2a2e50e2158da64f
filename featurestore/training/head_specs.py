"""Heads as text: `dense,logistic:tune=true,sklearn.tree.DecisionTreeClassifier:max_depth=3`.

Heads are parted by commas, a head and its settings by colons; a comma or colon within quotes or
brackets parts nothing. A value is JSON where it parses, else the text itself.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping

from featurestore.errors import InvalidInput
from featurestore.training.contract import HeadSettings
from featurestore.training.heads import build_settings, setting_names
from featurestore.training.sklearn_settings import ANY_CLASSIFIER

_EXAMPLE = "write heads as dense,logistic:tune=true,knn:neighbors=11"
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def parse_heads(text: str) -> tuple[HeadSettings, ...]:
    """Return the settings that a list of heads means, in its order.

    Of a head named ``sklearn.module.Class`` the settings are the class's parameters.

    Raises
    ------
    InvalidInput
        A part is empty, is not ``name=value``, names an unknown head or setting, or has a value of
        another type or out of range; or two heads are the same. The part is named.
    """
    heads: dict[str, HeadSettings] = {}
    for part in _split(text, ","):
        settings = _parse_head(part)
        label = head_label(settings)
        if label in heads:
            raise InvalidInput(
                f"heads {text!r}: {label} is named twice",
                next_step="name each head once; --seeds trains one several times",
            )
        heads[label] = settings
    return tuple(heads.values())


def head_label(settings: HeadSettings) -> str:
    """Return the head's name with the settings that differ from its defaults, as a spec has them.

    A scikit-learn class goes by its own name, without its module.
    """
    if settings.head.startswith(ANY_CLASSIFIER):
        name = settings.head.rpartition(".")[2]
        parameters = settings.to_dict()["parameters"]
        given = dict(parameters) if isinstance(parameters, Mapping) else {}
    else:
        name = settings.head
        defaults = build_settings(name, {}).to_dict()
        given = {
            field: _plain(value)
            for field, value in settings.to_dict().items()
            if value != defaults.get(field)
        }
    return ":".join([name, *(f"{field}={_shown(value)}" for field, value in given.items())])


def settings_key(settings: HeadSettings) -> str:
    """Return a text that is equal for settings that mean the same head, and hashable.

    A whole number and the float equal to it are the same setting (``c=7``, ``c=7.0``), but not for
    a scikit-learn class, whose ``max_features`` 1 and 1.0 differ.
    """
    fields: object = settings.to_dict()
    if not settings.head.startswith(ANY_CLASSIFIER):
        fields = _plain(fields)
    return f"{settings.head} {json.dumps(fields, sort_keys=True)}"


def _plain(value: object) -> object:
    """Turn floats that are whole numbers into whole numbers, within lists and mappings too."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_head(part: str) -> HeadSettings:
    name, *assignments = (piece.strip() for piece in _split(part, ":"))
    if not name:
        raise InvalidInput(f"heads: a name is missing in {part!r}", next_step=_EXAMPLE)
    fields: dict[str, object] = {}
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        field = field.strip()
        if not equals or not field or field in fields:
            problem = "a second time" if field in fields else "without a value"
            raise InvalidInput(
                f"heads: {part!r} has the setting {assignment!r} {problem}: expected name=value",
                next_step=_EXAMPLE,
            )
        fields[field] = _value(value.strip())
    try:
        if name.startswith(ANY_CLASSIFIER):
            return build_settings(name, {"parameters": fields} if fields else {})
        if set(fields) <= set(setting_names(name)):
            fields = _typed(name, fields)
        return build_settings(name, fields)
    except InvalidInput as error:
        raise InvalidInput(
            f"heads: {part!r}: {error.message}", next_step=error.next_step
        ) from error


def _typed(name: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Return values of their settings' types; refuse `2.5` units, or `maybe` for a flag.

    The settings classes check ranges; types they leave to mypy, which sees no command line.
    """
    typed = {}
    hints = typing.get_type_hints(type(build_settings(name, {})))
    for field, value in fields.items():
        hint = hints[field]
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        allowed = typing.get_args(hint) if union else (hint,)
        if not any(_is_of(value, kind) for kind in allowed):
            expected = " or ".join(_NAMES.get(kind, "null") for kind in allowed)
            raise InvalidInput(f"{field}: expected {expected}, found {_shown(value)}")
        if isinstance(value, int) and not isinstance(value, bool) and int not in allowed:
            value = float(value)
        typed[field] = value
    return typed


def _is_of(value: object, kind: type) -> bool:
    if kind not in _NAMES and kind is not type(None):
        return True  # a richer type: its settings class checks it
    if isinstance(value, bool):  # a subclass of int
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: object) -> str:
    if isinstance(value, str) and _value(value) == value and not set(value) & set(',:"[]{}'):
        return value
    return json.dumps(value, separators=(",", ":"))


def _split(text: str, separator: str) -> list[str]:
    """Split where the separator stands outside quotes and brackets."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for character in text:
        if quoted:
            quoted = character != '"' or escaped
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == separator and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts
