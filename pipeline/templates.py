"""Templates that lie beside the code that fills them."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str, **options: Any) -> Environment:
    """Those of a package, in its folder ``templates``. A name that is not given is an error; lines of tags alone leave nothing."""
    loader = PackageLoader(package, "templates")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
