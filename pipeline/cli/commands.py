"""The commands: what each is called, what its configuration is, and which function does the work."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from pipeline.errors import UserError

JSON, CONFIG_DIR = "--json", "--config-dir"
"""Words of every command that answers, and of every command."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command. What does the work is imported when it begins: neither ``--help`` nor a typo should wait for torch."""

    summary: str
    example: str
    config: str
    """The configuration class, by its place: ``package.module:Class``. Its module imports no torch."""
    function: str
    """What does the work, likewise: it is called with a configuration."""
    answers: bool = False
    """It returns what ``--json`` prints: anything that pydantic can write as JSON."""
    positional: str | None = None
    """The key of a first word without ``=``."""

    def config_class(self) -> type[Any]:
        """The configuration class."""
        found: type[Any] = _resolve(self.config)
        return found

    def words(self, words: Sequence[str]) -> list[str]:
        """What was typed behind its name, as ``key=value`` words."""
        if self.positional is None or not words or "=" in words[0] or words[0].startswith(("-", "~", "+")):
            return list(words)
        return [f"{self.positional}={words[0]}", *words[1:]]

    def call(self, config: Any) -> Any:
        """Do the work. Returns what it found, if it ``answers``."""
        gc.enable()
        return _resolve(self.function)(config)


def _resolve(name: str) -> Any:
    try:
        return resolve_name(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("pipeline", "segmenter", "classifier"):
            raise  # ours: a bug
        raise UserError(f"the package {error.name} is not installed; run make setup, then foreguard doctor") from error


COMMANDS = {
    "prepare": Command(
        summary="turn images with masks and labels into a prepared data set",
        example="foreguard prepare data=synthetic prepared=prepared/synthetic preview=true",
        config="pipeline.data.config:PrepareConfig",
        function="pipeline.data.prepare:prepare",
    ),
    "train-segmenter": Command(
        summary="train the stage that predicts the foreground mask",
        example="foreguard train-segmenter prepared=prepared/synthetic run=runs/segmenter",
        config="pipeline.training.config:TrainSegmenterConfig",
        function="pipeline.training.commands:train_segmenter",
    ),
    "train-classifier": Command(
        summary="train the stage that classifies the masked image",
        example="foreguard train-classifier prepared=prepared/synthetic run=runs/oracle masks.source=oracle",
        config="pipeline.training.config:TrainClassifierConfig",
        function="pipeline.training.commands:train_classifier",
    ),
    "train-joint": Command(
        summary="train both stages on, from two runs, end to end",
        example="foreguard train-joint prepared=prepared/synthetic run=runs/joint segmenter_run=runs/seg classifier_run=runs/none",
        config="pipeline.training.config:TrainJointConfig",
        function="pipeline.training.commands:train_joint",
    ),
    "evaluate": Command(
        summary="attack a trained system and say how many images it still gets right",
        example="foreguard evaluate prepared=prepared/synthetic classifier_run=runs/oracle run=runs/oracle-attacked attack=fast",
        config="pipeline.evaluation.config:EvaluateConfig",
        function="pipeline.evaluation.evaluate:evaluate",
        answers=True,
    ),
    "ablate": Command(
        summary="train, attack and compare systems over a grid of objectives, masks and seeds, and report them",
        example="foreguard ablate experiment=quickstart",
        config="pipeline.ablation.config:AblateConfig",
        function="pipeline.cli.ablate:ablate",
        answers=True,
    ),
    "predict": Command(
        summary="class, confidence and mask for your own images",
        example="foreguard predict images=photos run=runs/quickstart out=predictions",
        config="pipeline.prediction.config:PredictConfig",
        function="pipeline.prediction.predict:predict",
    ),
    "report": Command(
        summary="turn the records of a run into a page that opens offline, tables and figures",
        example="foreguard report run=runs/oracle-attacked",
        config="pipeline.reporting.config:ReportConfig",
        function="pipeline.reporting.commands:report",
        answers=True,
    ),
    "compare": Command(
        summary="the paired differences between runs, with intervals and p, as a table in the terminal",
        example='foreguard compare "runs=[runs/none-attacked,runs/learned-attacked]"',
        config="pipeline.reporting.config:CompareConfig",
        function="pipeline.reporting.compare:compare_runs",
        answers=True,
    ),
    "export": Command(
        summary="write a trained system as one directory to hand on: weights, ONNX, torch.export, model card",
        example="foreguard export run=runs/quickstart out=exports/quickstart",
        config="pipeline.sharing.config:ExportConfig",
        function="pipeline.sharing.export:export",
    ),
    "lab": Command(
        summary="watch an attack live in a page of this machine: image, mask, classes and margin over the steps",
        example="foreguard lab run=runs/quickstart",
        config="pipeline.lab.config:LabConfig",
        function="pipeline.lab.lab:lab",
    ),
    "list": Command(
        summary="the runs below a directory: when, what, finished or not, what they found; list zoo: published systems",
        example="foreguard list runs",
        config="pipeline.reporting.config:ListConfig",
        function="pipeline.reporting.listing:list_runs",
        answers=True,
        positional="path",
    ),
    "new": Command(
        summary="look at data of your own and write an experiment for them, with comments",
        example="foreguard new my-signs root=photos",
        config="pipeline.cli.new:NewConfig",
        function="pipeline.cli.new:new",
        answers=True,
        positional="name",
    ),
    "doctor": Command(
        summary="check this machine: versions, devices, disk, memory, what is missing",
        example="foreguard doctor",
        config="pipeline.cli.doctor:DoctorConfig",
        function="pipeline.cli.doctor:doctor",
        answers=True,
    ),
}
