"""The documentation page's content: the OpenAPI description in the order in which one reads it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from featurestore.service.description import OPEN, Description

_FORM = "multipart/form-data"


@dataclasses.dataclass(frozen=True)
class Block:
    """A paragraph, or lines of code; a paragraph is pieces of text and of code by turns."""

    kind: Literal["text", "code"]
    pieces: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a request may say, by its place: path or query."""

    name: str
    place: str
    required: bool
    type: str
    about: str


@dataclasses.dataclass(frozen=True)
class Operation:
    """One method of one path."""

    anchor: str
    method: str
    path: str
    title: str
    about: tuple[Block, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[str, ...]
    answers: tuple[tuple[str, str, str], ...]
    curl: str
    opens: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """The operations of one tag."""

    name: str
    about: str
    operations: tuple[Operation, ...]


def groups_of(description: Description, *, url: str) -> tuple[Group, ...]:
    """Return all operations by tag; those without one come last.

    Parameters
    ----------
    url
        Of this service, for the commands to copy.
    """
    asks_for_token = bool(description.get("security"))
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in description["tags"]}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            needs = asks_for_token and path not in OPEN
            shown = _operation(path, method, operation, url=url, token=needs)
            tag = next(iter(operation.get("tags", ())), "other")
            found.setdefault(tag, []).append(shown)
    abouts = {tag["name"]: tag["description"] for tag in description["tags"]}
    return tuple(
        Group(name, abouts.get(name, ""), tuple(operations))
        for name, operations in found.items()
        if operations
    )


def blocks_of(text: str) -> tuple[Block, ...]:
    """Return a docstring's paragraphs and its indented code."""
    blocks = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        lines = part.split("\n")
        if all(line.startswith("    ") for line in lines):
            blocks.append(Block("code", ("\n".join(line[4:] for line in lines),)))
        else:
            blocks.append(Block("text", tuple(re.split(r"`+", " ".join(lines)))))
    return tuple(blocks)


def _operation(
    path: str, method: str, operation: Description, *, url: str, token: bool
) -> Operation:
    parameters = tuple(_parameter(each) for each in operation.get("parameters", ()))
    body = tuple(operation.get("requestBody", {}).get("content", ()))
    return Operation(
        anchor=re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-"),
        method=method.upper(),
        path=path,
        title=operation.get("summary", ""),
        about=blocks_of(operation.get("description", "")),
        parameters=parameters,
        body=body,
        answers=tuple(_answers(operation["responses"])),
        curl=_curl(url + path, parameters, body, token=token),
        opens=method == "get" and not any(each.required for each in parameters),
    )


def _parameter(parameter: Description) -> Parameter:
    schema = parameter.get("schema", {})
    kinds: Sequence[Any] = schema.get("anyOf", [schema])
    types = [str(kind["type"]) for kind in kinds if kind.get("type") not in (None, "null")]
    default = schema.get("default")
    about = str(parameter.get("description", ""))
    if default is not None:
        about = f"{about}; default {default}" if about else f"default {default}"
    return Parameter(
        name=str(parameter["name"]),
        place=str(parameter["in"]),
        required=bool(parameter.get("required")),
        type=" or ".join(types) or "any",
        about=about,
    )


def _answers(responses: Description) -> Iterator[tuple[str, str, str]]:
    for status, response in sorted(responses.items()):
        yield status, str(response["description"]), ", ".join(response.get("content", ()))


def _curl(
    address: str, parameters: Sequence[Parameter], body: Sequence[str], *, token: bool
) -> str:
    """Return a command to copy; names in capitals are to be replaced."""
    for parameter in parameters:
        if parameter.place == "path":
            address = address.replace(f"{{{parameter.name}}}", parameter.name.upper())
    query = {
        each.name: each.name.upper()
        for each in parameters
        if each.place == "query" and each.required
    }
    if query:
        address += f"?{urlencode(query)}"
    words = ["curl"]
    if token:
        words += ["-H", '"Authorization: Bearer $FS_TOKEN"']
    if _FORM in body:
        words += ["-F", "image=@photo.jpg"]
    elif body:
        words += ["--data-binary", "@photo.jpg"]
    return " ".join([*words, shlex.quote(address)])
