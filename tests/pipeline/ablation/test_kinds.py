"""Adding a kind of job: a class and a function that lists its jobs. This one counts the images that an arm gets wrong clean."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import FAMILIES, arms, jobs
from pipeline.ablation.job import ImageCounts, Job, JobState, Materials, Passes
from pipeline.ablation.plan import Progress, lines, plan
from pipeline.cli.composition import compose
from pipeline.config import validate
from pipeline.data.dataset import open_prepared
from pipeline.evaluation.records import read_records
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_json

COUNTS = ImageCounts(train=96, val=32, test=32, classes=10)
SMALL = {
    "masks": [{"train": "none", "test": "none"}],
    "classifier_objectives": ["natural"],
    "classifier": {"width": 2},
    "classifier_trainer": {"epochs": 1},
    "attack": {"threat": {"epsilons": [8 / 255]}, "attacks": {"pgd": {"kind": "class", "search": "pgd", "num_steps": 1}}},
    "primary_epsilon": None,
    "evaluation": {"max_images": 12, "sanity": None},
    "degradation": None,
    "decomposition": None,
    "silhouette": False,
}


@dataclass(frozen=True, kw_only=True)
class MistakeJob(Job):
    kind: ClassVar[str] = "mistake"
    command: ClassVar[str] = "count-mistakes"
    result: ClassVar[str] = "mistakes.json"
    verb: ClassVar[str] = "count"
    arm: EvaluationJob

    @property
    def title(self) -> str:
        return f"mistakes of {self.arm.title}"

    @property
    def slug(self) -> str:
        return self.arm.slug

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.arm,)

    @property
    def alike(self) -> tuple[object, ...]:
        return ()

    def config(self, _materials: Materials, _run: Path) -> dict[str, Any]:
        return {}

    def inputs(self, materials: Materials) -> dict[str, str]:
        return {"evaluation": materials.finished[self.arm].fingerprint}

    def run(self, state: JobState) -> None:
        with open_run(state.path, command=self.command, config=state.config, inputs=state.inputs, resume=True):
            records = read_records(state.materials.finished[self.arm].path).unique("sample_id")
            write_json(state.path / self.result, {"mistakes": int((records["clean_prediction"] != records["label"]).sum())})

    def finding(self, path: Path) -> str:
        return f"{json.loads((path / self.result).read_text())['mistakes']} wrong clean"

    def passes(self, _ablation: AblateConfig, _counts: ImageCounts) -> Passes:
        return Passes(forward=0, backward=0)


def mistakes(config: AblateConfig) -> Iterable[Job]:
    return [MistakeJob(arm=arm) for arm in arms(config)]


def test_a_kind_of_job_is_a_class_and_a_line(synthetic_set: Path, tmp_path: Path) -> None:
    paths = {"prepared": str(synthetic_set), "run": str(tmp_path / "run"), "store": str(tmp_path / "store")}
    config = validate(AblateConfig, compose("ablate", AblateConfig, []) | SMALL | paths)
    todo = jobs(config, (*FAMILIES, mistakes))
    assert [job.kind for job in todo] == ["classifier", "evaluation", "mistake"]
    cache = RunCache(config, open_prepared(synthetic_set).fingerprint, {})
    assert "count    new        mistakes of natural classifier, masks none to none, seed 0  [at most 0 passes]" in "\n".join(
        lines(config, plan(config, cache, todo, COUNTS), prepared=True)
    )
    for job in todo:
        state = cache.find(job)
        assert state is not None
        job.run(state)
    again = RunCache(config, open_prepared(synthetic_set).fingerprint, {})
    assert {step.progress for step in plan(config, again, todo, COUNTS)} == {Progress.REUSED}
    arm, found = again.find(todo[1]), again.find(todo[2])
    wrong = 12 - round(12 * json.loads((arm.path / "summary.json").read_text())["clean_accuracy"]["value"])
    assert todo[2].finding(found.path) == f"{wrong} wrong clean"
    assert found.path.parent == tmp_path / "store" / "mistakes"
