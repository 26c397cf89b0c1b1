"""What tests of whole commands share: the words of a tiny ablation, and stages as a training leaves them but for their weights."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.config import to_plain
from pipeline.runs.checkpoints import Checkpoint, refer_to_segmenter, save_checkpoint, weights_digest
from pipeline.runs.provenance import provenance
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

DATA = ["data.image_size=16", "data.num_train=24", "data.num_val=12", "data.num_test=12", "data.num_classes=3", "workers=0"]
STAGES = ["segmenter.encoder_depth=3", "segmenter.decoder_channels=[8,8,8]", "classifier.width=4"]
WORDS = [*DATA, *STAGES, "evaluation.max_images=12"]
ABLATION = [
    *WORDS,
    "experiment=quickstart",
    "masks=[{train: none, test: none}, {train: oracle, test: learned}]",
    "classifier_objectives=[natural]",
    "segmenter_trainer.epochs=1",
    "classifier_trainer.epochs=1",
    "attack.threat.epsilons=[4/255,8/255]",
    "primary_epsilon=null",
    "~attack.attacks",
    "+attack.attacks={pgd: {kind: class, search: pgd, num_steps: 3}}",
    *("evaluation.part_size=3", "evaluation.sanity=null", "degradation=null", "decomposition=null", "silhouette=false"),
]
"""Two arms of three stages, whose evaluations have four parts."""
NATURAL = [
    "classifier.width=4",
    "classifier_objectives=[natural]",
    "classifier_trainer={epochs: 1, num_workers: 0}",
    "attack.threat.epsilons=[2/255,8/255]",
    "primary_epsilon=8/255",
    "attack.attacks={pgd: {kind: class, search: pgd, num_steps: 2}}",
    "evaluation.max_images=16",
    "evaluation.sanity=null",
    "degradation=null",
    "decomposition=null",
    "silhouette=false",
]
"""Naturally trained classifiers attacked at two epsilons and nothing else; masks are to be added."""
SEGMENTER, CLASSIFIER = SegmenterConfig(decoder_channels=(16, 8, 8)), ClassifierConfig(width=4)
"""As shipped, but narrow."""


def save_untrained(path: Path, module: Any, architecture: Any, **described: Any) -> None:
    """A checkpoint ``best`` of a stage in the run ``path``."""
    kind = "classifier" if isinstance(architecture, ClassifierConfig) else "segmenter"
    of_data = {"image_size": 32, "data_fingerprint": "0" * 64, "mean_color": (0.5, 0.5, 0.5)}
    of_training = {"config": {}, "provenance": provenance(), "step": 0, "epoch": 0, "metrics": {}}
    checkpoint = Checkpoint(kind=kind, architecture=to_plain(architecture), **{**of_data, **of_training, **described})
    save_checkpoint(path / "checkpoints", "best", checkpoint, module.state_dict())


def save_stages(path: Path, *, config: dict[str, Any], refers: bool = False, **described: Any) -> None:
    """``segmenter`` and ``classifier`` in a directory, of SEGMENTER, CLASSIFIER and seed 0; ``refers``: trained with that one."""
    save_untrained(path / "segmenter", build_segmenter(SEGMENTER, seed=0), SEGMENTER, config=config, **described)
    network = build_classifier(CLASSIFIER, num_classes=len(described["classes"]), seed=0)
    digest = weights_digest(path / "segmenter", "segmenter")
    segmenter = refer_to_segmenter(path / "segmenter", sha256=digest, run=path / "classifier") if refers else None
    save_untrained(path / "classifier", network, CLASSIFIER, config=config, segmenter=segmenter, **described)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def states(slurm: dict[str, str]) -> dict[str, str]:
    """The jobs that a SLURM, known by an environment, has not ended yet, with their states."""
    listed = _said(slurm, "squeue", "-h", "-r", "-o", "%i %T")
    return dict(line.split() for line in listed.splitlines())


def requeue(slurm: dict[str, str], job: str) -> None:
    """Take a job away, which then begins again."""
    _said(slurm, "scontrol", "requeue", job)
    _run_again(slurm, [job])


def preempt(slurm: dict[str, str], jobs: list[str]) -> None:
    """Take jobs away by a more urgent one, which wants the whole machine for a moment."""
    _said(slurm, "sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap=true")
    _run_again(slurm, jobs)


def taken_away_twice(slurm: dict[str, str], job: str, said: Path, written: Callable[[], object]) -> None:
    """Requeue and then preempt a job, each once it has written something more, and wait for its end. ``said``: what it printed."""
    for take_away in (lambda: requeue(slurm, job), lambda: preempt(slurm, [job])):
        before = written()
        while written() == before:
            assert job in states(slurm), said.read_text()
            time.sleep(0.02)
        take_away()
    while job in states(slurm):
        time.sleep(0.1)


def _run_again(slurm: dict[str, str], jobs: list[str]) -> None:
    """What was requeued begins again in three seconds, and not in two minutes as SLURM has it; at once would be too soon for its
    credentials. A job that has ended is a KeyError."""
    while any(states(slurm)[job] != "PENDING" for job in jobs):
        time.sleep(0.1)
    for job in jobs:
        _said(slurm, "scontrol", "update", f"jobid={job}", "StartTime=now+3")
    while any(states(slurm)[job] == "PENDING" for job in jobs):
        time.sleep(0.1)


def _said(slurm: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout
