"""Numbers."""

from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator


def parse_number(value: Any) -> Any:
    """Turn ``"8/255"`` into 8/255; leave everything else to pydantic. Raises ValueError for a fraction that is none."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{value!r} is not a fraction such as 8/255") from error
    return value


Number = Annotated[float, BeforeValidator(parse_number)]
"""A number that may be written as a fraction: ``8/255``."""
