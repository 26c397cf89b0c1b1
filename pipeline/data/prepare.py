"""The command ``foreguard prepare``: from a source to a prepared data set."""

import csv
import os
from pathlib import Path
from typing import Any

from pipeline.data import folder
from pipeline.data.builder import Outcome, write_prepared
from pipeline.data.coco import source as coco
from pipeline.data.config import AnySource, PrepareConfig
from pipeline.data.dataset import REJECTS, open_prepared
from pipeline.data.gtsrb import source as gtsrb
from pipeline.data.preview import write_contact_sheet
from pipeline.data.rules import note_lines
from pipeline.data.sample import Plan
from pipeline.data.splits import SPLITS
from pipeline.data.synthetic import source as synthetic
from pipeline.errors import printable, shortened


def prepare(config: PrepareConfig) -> None:
    """Prepare a data set and say what came out. A second call finds it unchanged. Raises DataError."""
    root: Path | None = getattr(config.data, "root", None)
    workers = usable_cores() if config.workers is None else config.workers
    outcome = write_prepared(
        plan_of(config.data),
        config.prepared,
        name=config.data.source,
        image_size=config.data.image_size,
        root=root,
        workers=workers,
    )
    print(_summary(config.prepared, outcome))
    if config.preview:
        sheet = config.prepared / "preview.png"
        write_contact_sheet(open_prepared(config.prepared, verify=False), sheet)
        print(f"contact sheet: {sheet}")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_of(config: AnySource) -> Plan:
    """What a source holds, before any image is decoded. Raises ConfigError and DataError as its ``plan``."""
    sources: dict[str, Any] = {"synthetic": synthetic, "gtsrb": gtsrb, "coco": coco, "folder": folder}
    plan: Plan = sources[config.source].plan(config)
    return plan


def _summary(target: Path, outcome: Outcome) -> str:
    if outcome.unchanged:
        said = f"{target}: unchanged since it was prepared ({outcome.num_samples} samples); nothing to do"
        return "\n".join([said, *_notes(outcome)])
    classes = list(outcome.counts["train"])
    shown = [shortened(printable(name)) for name in classes]
    width = max(len(name) for name in [*shown, "class", "all"])
    lines = [f"{target}: {outcome.num_samples} samples in {outcome.seconds:.1f} s", ""]
    lines.append(f"{'class':<{width}}" + "".join(f"{split:>8}" for split in SPLITS))
    for name, text in zip(classes, shown, strict=True):
        lines.append(f"{text:<{width}}" + "".join(f"{outcome.counts[split][name]:>8}" for split in SPLITS))
    lines.append(f"{'all':<{width}}" + "".join(f"{sum(outcome.counts[split].values()):>8}" for split in SPLITS))
    classed = sum(sum(of_class.values()) for of_class in outcome.counts.values())
    if classed < outcome.num_samples:
        lines.append(f"for segmenters alone: {outcome.num_samples - classed}")
    lines.append("")
    if outcome.rejects:
        lines.append(f"not taken, by rule with the first (each one in {target / REJECTS}):")
        first = _first_rejects(target / REJECTS)
        lines += [f"{count:>8}  {rule} ({shortened(printable(first[rule]))})" for rule, count in outcome.rejects.items()]
    else:
        lines.append("nothing was rejected")
    return "\n".join([*lines, *_notes(outcome)])


def _first_rejects(path: Path) -> dict[str, str]:
    """The first item of each rule, and what was wrong with it."""
    first: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for rule, _, item, detail in csv.reader(stream):
            first.setdefault(rule, f"{item}: {detail}")
    return first


def _notes(outcome: Outcome) -> list[str]:
    """What the whole set says of itself; it is as true of a set that was there already."""
    notes = note_lines(outcome.notes, outcome.num_samples, outcome.rejects)
    if not any(outcome.counts["train"].values()):
        notes.append("the split train is empty: this is a set for testing systems that were trained on another one")
    for split, use in (("val", "no training can be validated"), ("test", "no system can be tested")):
        if any(outcome.counts["train"].values()) and not any(outcome.counts[split].values()):
            notes.append(f"the split {split} is empty: {use} on this set; give it images")
    bare = [shortened(printable(name)) for name, count in outcome.counts["test"].items() if not count]
    if 0 < len(bare) < len(outcome.counts["test"]):
        shown = f"{', '.join(bare[:3])}{', ...' if len(bare) > 3 else ''}"
        notes.append(f"the split test has no image of {len(bare)} of {len(outcome.counts['test'])} classes ({shown})")
    if len(outcome.counts["train"]) == 1:
        notes.append("there is one class alone: a classifier has nothing to tell apart")
    return [f"note: {line}" for line in notes]
