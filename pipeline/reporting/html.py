"""The page: one file that opens offline, runs no script and loads nothing. What comes from data is text, never markup."""

from markupsafe import Markup

from pipeline.reporting import templating, wording
from pipeline.reporting.document import Document
from pipeline.reporting.gallery import OUTCOMES
from pipeline.reporting.panel import themed


def render(document: Document) -> str:
    """The page of a report."""
    environment = templating.page()
    environment.filters["system"] = wording.system_text
    environment.filters["figure"] = lambda panel: Markup(themed(panel))  # matplotlib has escaped the text inside
    outcomes = [(outcome.value, text) for outcome, text in OUTCOMES.items()]
    style = environment.get_template("style.css").render(
        outcomes=[name for name, _ in outcomes], num_systems=len(document.gallery.systems) if document.gallery else 0
    )
    # Our own file; nothing from data goes into it.
    return environment.get_template("index.html").render(document=document, outcomes=outcomes, style=Markup(style))
