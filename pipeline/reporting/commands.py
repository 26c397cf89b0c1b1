"""The command ``foreguard report``: from the records of a run to a page, tables and figures."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.errors import RunError, writing
from pipeline.reporting.config import ReportConfig
from pipeline.reporting.document import Document, compose
from pipeline.reporting.gallery import OUTCOMES
from pipeline.reporting.panel import themed
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs
from pipeline.reporting.table import to_csv, to_latex
from pipeline.reporting.templating import latex, page
from pipeline.reporting.wording import system_text
from pipeline.runs.replacing import new_directory
from pipeline.terminal import colored

MARKER = "report.json"
FORMAT = 1


def report(config: ReportConfig) -> dict[str, Any]:
    """Write a report: ``index.html``, ``tables/*.csv`` and ``*.tex``, ``figures/*.svg`` and ``*.pdf``.

    Returns its headline: every answer with its verdict, and every failed check.

    It is a function of the run, or of several: the same run gives the same bytes, so an older report is replaced without asking.
    Raises RunError for a run that cannot be reported and for a directory that holds something else or cannot be written.
    """
    target = config.out or (config.run or Path()) / "report"
    _check_target(target)
    document = compose(read_study(config.run)) if config.run else compose_runs([read_study(run) for run in config.runs])
    replace_directory(target, files(document))
    for answer in document.answers:
        verdict = colored(str(answer.trust), "good" if answer.sentences else "bad")
        print(f"{answer.heading} ({verdict}): {' '.join(answer.sentences) or 'no answer'}")
    for failure in document.failures:
        print(f"{colored('FAIL', 'bad')}  {system_text(failure.condition)}: {failure.name}: {'; '.join(failure.findings)}")
    print(f"report: {target / 'index.html'}")
    return {
        "report": target / "index.html",
        "answers": [dataclasses.asdict(answer) for answer in document.answers],
        "unanswered": document.unanswered,
        "failures": [{**dataclasses.asdict(one), "condition": one.condition._asdict()} for one in document.failures],
        "systems": next(table.tidy.to_dicts() for table in document.tables() if table.name == "headline"),
    }


def files(document: Document) -> dict[str, bytes]:
    """Every file of a report by its path, the marker included."""
    contents = {"index.html": render(document).encode(), **quotable(document)}
    for table in document.tables():
        contents |= {f"tables/{table.name}.csv": to_csv(table), f"tables/{table.name}.tex": to_latex(table)}
    for panel in document.panels():
        contents |= {f"figures/{panel.name}.svg": panel.svg, f"figures/{panel.name}.pdf": panel.pdf}
    marker = {"format": FORMAT, "command": "report", "run": document.title, "files": sorted(contents)}
    return contents | {MARKER: (json.dumps(marker, indent=2) + "\n").encode()}


def render(document: Document) -> str:
    """The page: one file that opens offline, runs no script and loads nothing. What comes from data is text, never markup."""
    environment = page()
    environment.filters["system"] = system_text
    environment.filters["figure"] = lambda panel: Markup(themed(panel))  # matplotlib has escaped the text inside
    outcomes = [(outcome.value, text) for outcome, text in OUTCOMES.items()]
    style = environment.get_template("style.css").render(
        outcomes=[name for name, _ in outcomes], num_systems=len(document.gallery.systems) if document.gallery else 0
    )
    # Our own file; nothing from data goes into it.
    return environment.get_template("index.html").render(document=document, outcomes=outcomes, style=Markup(style))


def quotable(document: Document) -> dict[str, bytes]:
    """What a paper takes over: the paragraph for its methods as text and LaTeX, and what it cites as BibTeX."""
    paragraphs = ["".join(f"{part}\n" for part in map(escape, document.methods)) for escape in (str, latex)]
    entries = [text for form, text in document.citation if form.endswith("BibTeX")]
    texts = {"methods.txt": paragraphs[0], "methods.tex": paragraphs[1], "cite.bib": "\n\n".join(entries) + "\n"}
    return {name: text.encode() for name, text in texts.items() if text.strip()}


def replace_directory(target: Path, contents: Mapping[str, bytes]) -> None:
    """Put files into a directory, all or none: see ``new_directory``. Raises RunError where it cannot be written."""
    with new_directory(target) as made, writing(target):
        for name, content in contents.items():
            path = made / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def _check_target(target: Path) -> None:
    if not target.exists() or (target / MARKER).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise RunError(f"{target}: holds something that is not a report; choose another directory with out=...")
