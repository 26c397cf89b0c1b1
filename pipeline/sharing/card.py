"""The model card: what a system was made of, what it was shown to do, and under which attacks."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.attacks.diagnostics import Outcome
from pipeline.data.dataset import read_manifest
from pipeline.errors import DataError, RunError, printable
from pipeline.evaluation.summary import SANITY, SUMMARY, SanityReport, Summary, epsilon_text
from pipeline.masks.config import MaskSource
from pipeline.prediction.choice import ChosenSystem
from pipeline.runs.checkpoints import Checkpoint
from pipeline.runs.directory import read_run
from pipeline.runs.exported import ExportedSystem
from pipeline.sharing.joint import FILES
from pipeline.templates import templates
from pipeline.training.result import RESULT, TrainingResult

CARD = "README.md"
_ADDRESS = re.compile(r":(?=//)|www(?=\.)", re.IGNORECASE)
"""Where a space takes away the beginning of an address, which is made a link though it is escaped."""
LICENCES = {
    "synthetic": "drawn by foreguard itself, whose licence is MIT",
    "gtsrb": "German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012): this program knows of no licence; its authors at "
    "the Ruhr-Universität Bochum say what it may be used for",
    "coco": "MS-COCO (Lin et al. 2014): annotations CC BY 4.0; each photograph has the terms that its author chose on Flickr",
}
"""Terms of the images that a system was trained on, by the name of their source."""
NOT_RECORDED = "not recorded: whoever hands this on has to say it"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a system beside its weights."""

    data: str | None
    """Name of the source of the data of training; None where nothing near says it."""
    summary: Summary | None
    """Of its evaluation."""
    sanity: SanityReport | None
    attack: dict[str, Any] | None
    """The suite it was attacked with, as configured."""
    pooled: bool
    """The figures are those of several systems trained alike, of which this is one."""
    training: TrainingResult | None
    """Of the classifier, where it was not evaluated."""


def gather(chosen: ChosenSystem, checkpoint: Checkpoint, prepared: Path | None) -> Evidence:
    """Look for the evaluation of the system, the end of its training, the name of its data. Raises RunError: a damaged file."""
    summary = sanity = attack = training = None
    pooled, place, data = False, chosen.evaluation, None
    if place is not None and (place / SUMMARY).is_file():
        summary, run = Summary.read(place / SUMMARY), read_run(place)
        sanity = SanityReport.read(place / SANITY) if (place / SANITY).is_file() else None
        attack, pooled = run.config["attack"], run.command == "pool"
        if pooled or run.inputs.get("data set") == checkpoint.data_fingerprint:  # else it was evaluated on other data
            data = summary.data
    elif (chosen.classifier_run / RESULT).is_file():
        training = TrainingResult.read(chosen.classifier_run / RESULT)
    data = data or _name_of_data(checkpoint, prepared)
    return Evidence(data=data, summary=summary, sanity=sanity, attack=attack, pooled=pooled, training=training)


def _name_of_data(checkpoint: Checkpoint, prepared: Path | None) -> str | None:
    """From the prepared set that it was trained on, where that still lies where it lay."""
    recorded = checkpoint.config.get("prepared")
    for path in (prepared, Path(recorded) if isinstance(recorded, str) else None):
        try:
            manifest = None if path is None else read_manifest(path)
        except (DataError, RunError):
            continue
        if manifest is not None and manifest["fingerprint"] == checkpoint.data_fingerprint:
            return str(manifest["name"])
    return None


def card(description: ExportedSystem, checkpoint: Checkpoint, segmenter: Checkpoint | None, evidence: Evidence) -> str:
    """The card as Markdown, with the head that the Hugging Face hub reads."""
    environment = templates(
        "pipeline.sharing", keep_trailing_newline=True, finalize=lambda value: harmless(value) if isinstance(value, str) else value
    )
    environment.filters["epsilon"] = epsilon_text
    return environment.get_template("card.md").render(
        exported=description,
        classifier=checkpoint,
        segmenter=segmenter,
        evidence=evidence,
        source=MaskSource(description.masks["source"]),
        checks=_checks(evidence.sanity),
        licence=LICENCES.get(evidence.data or "", NOT_RECORDED),
        torch_export=FILES["torch-export"],
        onnx=FILES["onnx"],
    )


def _checks(sanity: SanityReport | None) -> dict[str, list[str]] | None:
    """Of each outcome the checks that had it, a failed one with what was found."""
    if sanity is None:
        return None
    found: dict[str, list[str]] = {outcome.value: [] for outcome in Outcome}
    for check in sanity.checks:
        failed = check.outcome == Outcome.FAIL
        found[check.outcome.value].append(f"{check.name}: {check.finding}" if failed else check.name)
    return found


def harmless(text: str) -> str:
    """Text from data as Markdown prints it: on one line, with no mark-up, entity, mention or address of its own."""
    one_line = _ADDRESS.sub(r"\g<0> ", printable(" ".join(text.split())))
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!~$&@" else letter for letter in one_line)
