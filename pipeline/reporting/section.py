"""A part of a report."""

from dataclasses import dataclass

from pipeline.reporting.gallery import Picture
from pipeline.reporting.panel import Panel
from pipeline.reporting.table import Table


@dataclass(frozen=True, kw_only=True)
class Section:
    """Text, figures and tables under one heading."""

    name: str
    """Its anchor."""
    title: str
    intro: str
    """How to read it."""
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    """Of single images, as systems were shown them."""
    folded: tuple[Table, ...] = ()
    """Tables to open on demand."""
    warning: str | None = None
    """What casts doubt on a figure of the report."""
    missing: str | None = None
    """What the run does not hold, and how to get it."""
