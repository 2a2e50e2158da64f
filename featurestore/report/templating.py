"""Templates of pages and reports, rendered in one way. The only module that sets up Jinja2."""

from __future__ import annotations

from featurestore.errors import MissingDependency
from featurestore.report.text import shown, unbroken

try:
    from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise MissingDependency(
        "pages and reports need Jinja2, which is not installed",
        next_step="pip install 'featurestore[report]'",
    ) from error

__all__ = ["ChoiceLoader", "Environment", "Markup", "PackageLoader"]


def page_environment(loader: BaseLoader) -> Environment:
    """Return what renders templates: every value is escaped, and none may be missing."""
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "unbroken": unbroken}
    return environment
