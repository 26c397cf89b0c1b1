"""The command ``foreguard new``: an experiment file for data of the user's own, written after looking at them.

What only the work itself needs is imported when it begins: neither ``--help`` nor a typo should wait for it.
"""

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import CONFIG_DIR, AnyPath, configuration
from pipeline.errors import RunError, shortened
from pipeline.terminal import aligned

if TYPE_CHECKING:
    from pipeline.data.look import Look

SIZES = (32, 48, 64)
"""Sides that are proposed: every network that is shipped takes them, and a CPU trains them in minutes to hours."""
FEWEST = 20
"""Objects that a class needs to be told from others by their accuracy."""
FOLDS, FEWEST_FOLDS = 5, 3
FEW_TESTED = 300
"""Test images below which cross-validation is proposed: a share of so many has an interval of more than ten points."""
STEPS = 2_500
"""Steps of the optimizer that a training is proposed to have, at 32 images a step."""
MOST_SHOWN = 12


@configuration
class NewConfig:
    """Look at data of your own and write an experiment for them, with comments: foreguard new NAME root=DIR."""

    name: str
    """Of the experiment: letters, digits, - and _. It may be said without name=."""
    root: AnyPath
    """Folder of the data, in a layout that is recognized: labels.csv, or images/CLASS/ beside masks/CLASS/; GTSRB; COCO's format,
    as labelling tools export it."""
    out: AnyPath = Path("configs")
    """Directory of configurations of your own: the file is OUT/experiment/NAME.yaml. It is never overwritten."""

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", self.name) is None:
            raise ValueError(f"name: {shortened(repr(self.name))}: say letters, digits, - and _, the first a letter or a digit")


def new(config: NewConfig) -> dict[str, Any]:
    """Write the file and say what was seen, what is proposed and how to go on. Raises DataError, RunError."""
    from pipeline.data.look import look, recognize
    from pipeline.runs.files import write_atomically

    target = config.out / "experiment" / f"{config.name}.yaml"
    if target.exists() or (CONFIG_DIR / "experiment" / target.name).exists():
        raise RunError(f"{target}: there is an experiment of that name; choose another one")
    found = look(recognize(config.root))
    values = proposal(found)
    own = "" if config.out.resolve() == CONFIG_DIR.resolve() else f" --config-dir {shlex.quote(str(config.out))}"
    command = f"foreguard ablate{own} experiment={config.name}"
    text = experiment(config.name, command, found, values)
    write_atomically(target, text.encode())
    print("\n".join([*seen(found), "", f"written: {target}", f"  {command} dry_run=true    what it will do", f"  {command}"]))
    return {"experiment": target, "command": command, "source": found.config.source, "counts": found.counts, "proposed": values}


def proposal(found: "Look") -> dict[str, Any]:
    """What is proposed for data that look like this, and the figures that the reasons need."""
    large = [name for name, of_class in found.counts.items() if sum(of_class.values()) >= FEWEST]
    classes = large if len(large) >= 2 and found.config.source == "coco" else list(found.counts)
    sizes = [sum(found.counts[name].values()) for name in classes]
    tested = sum(found.counts[name].get("test", 0) for name in classes)
    folds = min(FOLDS, min(sizes) // 2)  # two of every class in each
    is_cross_validated = tested < FEW_TESTED and found.groups >= 4 * FOLDS and folds >= FEWEST_FOLDS
    seen_per_fold = sum(sizes) - (sum(sizes) // folds if is_cross_validated else tested)
    epsilon = 8 if seen_per_fold >= 5000 else 4 if seen_per_fold >= 2000 else 2
    return {
        "image_size": max((size for size in SIZES if size <= found.side), default=SIZES[0]),
        "classes": classes,
        "folds": folds if is_cross_validated else None,
        "epsilon": epsilon,
        "epochs": min(40, max(6, round(STEPS * 32 / max(1, seen_per_fold)))),
        "trained_on": seen_per_fold,
    }


def experiment(name: str, command: str, found: "Look", values: dict[str, Any]) -> str:
    """The file, as text. What comes from data stands in it as JSON, which is YAML that means nothing else."""
    from pipeline.templates import templates

    environment = templates("pipeline.cli", keep_trailing_newline=True)
    environment.filters |= {"json": _yaml, "key": json.dumps, "comment": lambda lines: "\n".join(f"# {line}" for line in lines)}
    template = environment.get_template("experiment.yaml")
    return template.render(name=name, command=command, found=found, seen=seen(found), **values)


def _yaml(value: Any) -> str:
    """A value as Hydra reads it verbatim: JSON, and no reference to another value."""
    return json.dumps(value).replace("${", "\\\\${")


def seen(found: "Look") -> list[str]:
    """What was seen, in lines of plain text."""
    ranked = sorted(found.counts.items(), key=lambda one: -sum(one[1].values()))
    rows: list[tuple[str, ...]] = [("class", "objects", "train", "val", "test")]
    for name, of_class in ranked[:MOST_SHOWN]:
        rows.append((name, str(sum(of_class.values())), *(str(of_class.get(split, 0)) for split in ("train", "val", "test"))))
    if len(ranked) > MOST_SHOWN:
        left = sum(sum(of_class.values()) for _, of_class in ranked[MOST_SHOWN:])
        rows.append((f"... and {len(ranked) - MOST_SHOWN} more", str(left), "", "", ""))
    low, high = (found.sides[round(place * (len(found.sides) - 1))] for place in (0.1, 0.9))
    taken = f"{found.num_objects} objects of {len(found.counts)} classes in {found.groups} groups (photographs, tracks)"
    rejected = ", ".join(f"{rule} {count}" for rule, count in list(found.rejects.items())[:4])
    return [
        f"{found.config.source} layout: {taken}",
        *aligned(rows),
        f"squares around objects: median {found.side:.0f} px, four of five between {low:.0f} and {high:.0f} px; median foreground "
        f"{100 * found.foreground:.0f} % ({found.decoded} images looked at)",
        f"not taken: {rejected}" if rejected else "every object can be used, as far as was looked at",
        *(f"note: {line}" for line in found.notes),
    ]
