"""`fs doctor`: versions, devices, precision, cache health."""

from __future__ import annotations

from pathlib import Path

import click

from featurestore.doctor import cache_health, devices, versions
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import bytes_text, print_fields, print_json, print_line

_UNHEALTHY = 5


@click.command()
@cache_option
@json_option
def doctor(cache: Path, *, as_json: bool) -> int:
    """Report versions, devices, precision and the health of the cache; exit code 5 if it is ill."""
    health = cache_health(cache)
    report = {"versions": versions(), "devices": devices(), "cache": health}
    problems = health["problems"]
    assert isinstance(problems, list)
    if as_json:
        print_json(report)
        return _UNHEALTHY if problems else 0
    for title, fields in report.items():
        assert isinstance(fields, dict)
        print_line(f"{title}:")
        print_fields([(f"  {name}", _text(name, value)) for name, value in fields.items()])
    print_line("the cache has problems" if problems else "all is well")
    return _UNHEALTHY if problems else 0


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes"):
        return bytes_text(int(str(value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(str(each).replace("\n  next: ", "; next: ") for each in value) or "none"
    return str(value)
