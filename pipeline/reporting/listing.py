"""The command ``foreguard list``: the runs below a directory, a line each.

What only the work itself needs is imported when it begins: neither ``--help`` nor a typo should wait for it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import RunError, UserError
from pipeline.reporting.config import ListConfig
from pipeline.terminal import Style, aligned

RUN, ZOO = "run.json", "zoo"
_HEAD = ("begun (UTC)", "command", "state", "run", "headline")
_STYLES: dict[str, Style] = {"finished": "good", "unfinished": "note", "damaged": "bad"}


class Line(NamedTuple):
    """What is said of one run."""

    begun: str
    """To the minute; - where it cannot be read."""
    command: str
    state: str
    """finished, unfinished, or damaged."""
    run: str
    headline: str
    """What it found, or what is wrong with it."""


def list_runs(config: ListConfig) -> dict[str, Any]:
    """Print the runs below a directory, the newest last, and return them. Raises RunError where there is no directory or no run in
    it."""
    if config.path == Path(ZOO):
        return _list_zoo()
    if not config.path.is_dir():
        raise RunError(f"{config.path}: no {'' if config.path.exists() else 'such '}directory; say path=DIRECTORY")
    lines = sorted(_line(run) for run in _runs(config.path, inner=config.inner))
    if not lines:
        raise RunError(f"{config.path}: holds no run; say path=DIRECTORY")
    print("\n".join(aligned([_HEAD, *lines], _STYLES)))
    return {"runs": [line._asdict() for line in lines]}


def _list_zoo() -> dict[str, Any]:
    """What the zoo has, here or not, with its published figures."""
    from pipeline.evaluation.summary import epsilon_text
    from pipeline.runs.zoo import read_index, zoo_directory

    systems, rows = read_index(), [("system", "here", "data", "right (clean, then by epsilon)", "what")]
    for name, entry in systems.items():
        figures = ", ".join(
            f"{one.right}/{one.images}" + (f" at {epsilon_text(one.epsilon)}" if one.epsilon else "") for one in entry.figures
        )
        here = "yes" if (zoo_directory() / name).is_dir() else "no"
        rows.append((f"zoo:{name}", here, f"{entry.data} {entry.data_fingerprint[:12]}", figures, entry.about))
    print("\n".join(aligned(rows, {"yes": "good", "no": "note"})))
    return {"zoo": systems, "directory": zoo_directory()}


def _runs(path: Path, *, inner: bool) -> Iterator[Path]:
    """Directories with a run; those inside of another run, such as the store of an ablation, only if ``inner``."""
    for directory, inside, files in os.walk(path):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if RUN in files:
            yield Path(directory)
            if not inner:
                inside.clear()


def _line(run: Path) -> Line:
    from pipeline.runs.directory import read_run

    try:
        begun = read_run(run)
        headline = _headline(run, begun.command)
    except UserError as error:
        return Line("-", "-", "damaged", str(run), str(error))
    time = begun.started_at[:16].replace("T", " ")
    return Line(time, begun.command, "unfinished" if headline is None else "finished", str(run), headline or "")


def _headline(run: Path, command: str) -> str | None:
    """What a finished run found; None for one that has not come to its end, and of commands that leave nothing to tell nothing."""
    from pipeline.ablation.config import MANIFEST
    from pipeline.ablation.evaluation_job import evaluation_line
    from pipeline.ablation.manifest import read_ablation
    from pipeline.ablation.training_jobs import training_line
    from pipeline.evaluation.summary import SUMMARY
    from pipeline.training.result import RESULT

    if command == "ablate":
        manifest = read_ablation(run)[0] if (run / MANIFEST).is_file() else None
        return (
            None if manifest is None or not manifest.finished else f"{len(manifest.arms) + len(manifest.systems)} systems attacked"
        )
    if command.startswith("train-"):
        return training_line(run) if (run / RESULT).is_file() else None
    if command in ("evaluate", "pool"):
        return evaluation_line(run) if (run / SUMMARY).is_file() else None
    return ""
