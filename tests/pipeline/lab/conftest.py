"""An ablation whose arms are all the same untrained stages, and runs that have only begun."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import to_plain
from pipeline.masks.config import MaskConfig
from pipeline.runs.directory import RunDescription
from pipeline.runs.files import write_sealed
from pipeline.runs.provenance import provenance

ARMS = [("natural", "none"), *(("adversarial", mask) for mask in ("none", "oracle", "learned", "random"))]


@pytest.fixture(scope="session")
def sealed_ablation() -> Callable[..., Path]:
    """Writes ``ablation.json`` into a directory beside ``classifier`` and ``segmenter`` of other runs."""

    def write(path: Path, runs: Path, *, finished: bool) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        where = {stage: os.path.relpath(runs / stage, path) for stage in ("classifier", "segmenter")}
        arms = [
            {
                "name": f"{objective} {mask}",
                "role": "main",
                "seed": 0,
                "evaluation": "evaluation",
                "classifier_objective": objective,
                "segmenter_objective": "natural" if mask == "learned" else None,
                "train_masks": mask,
                "test_masks": mask,
                "masks": to_plain(MaskConfig(source=mask)),
                "classifier": where["classifier"],
                "segmenter": where["segmenter"] if mask == "learned" else None,
            }
            for objective, mask in ARMS
        ]
        content = {"experiment": "small", "prepared": "nowhere", "finished": finished, "arms": arms, "config": {}}
        write_sealed(path / "ablation.json", content, version=1)
        return path

    return write


@pytest.fixture(scope="session")
def begin() -> Callable[[Path, str], Path]:
    """Makes the directory of a run that has done nothing yet."""

    def write(path: Path, command: str) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        begun = {"command": command, "algorithm": 1, "config": {}, "inputs": {}, "started_at": "2026-01-01T00:00:00"}
        RunDescription(id="0" * 16, provenance=provenance(), **begun).write(path / "run.json")
        return path

    return write
