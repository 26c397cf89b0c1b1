"""What an ablation says in the terminal. Before: what is trained, reused, attacked, and how long that takes as far as it is known.
Afterwards: its main arms in a table."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import arms, own_systems
from pipeline.ablation.job import ImageCounts, Job
from pipeline.ablation.training_jobs import ClassifierJob, JointJob, SegmenterJob
from pipeline.evaluation.summary import SUMMARY, Summary, epsilon_text
from pipeline.terminal import aligned

_HEAD = ("classifier", "segmenter", "masks in training", "in testing", "seed", "clean", "mask IoU")


class Progress(StrEnum):
    """How far a job is."""

    REUSED = "reused"
    CONTINUED = "continued"
    NEW = "new"


class Step(NamedTuple):
    """A job and what is known of it before it is begun."""

    job: Job
    progress: Progress
    seconds: float | None
    """How long such jobs took here; None: none did."""
    passes: int | None
    """At most so many passes of an image through a stage; None while nobody knows how many images there are."""


def plan(config: AblateConfig, cache: RunCache, jobs: Sequence[Job], counts: ImageCounts | None) -> list[Step]:
    """The steps in order. A job whose materials are not there yet counts as new."""
    return [
        Step(
            job=job,
            progress=_progress(cache, job),
            seconds=cache.usual_duration(job),
            passes=None if counts is None else job.passes(config, counts).total,
        )
        for job in jobs
    ]


def for_programs(steps: Sequence[Step]) -> list[dict[str, object]]:
    """The plan for scripts: one mapping a job."""
    return [
        {
            "verb": step.job.verb,
            "title": step.job.title,
            "progress": step.progress.value,
            "seconds": step.seconds,
            "passes": step.passes,
        }
        for step in steps
    ]


def _progress(cache: RunCache, job: Job) -> Progress:
    state = cache.find(job)
    if state is None or not state.begun:
        return Progress.NEW
    return Progress.REUSED if state.finished else Progress.CONTINUED


def lines(config: AblateConfig, steps: Sequence[Step], *, prepared: bool) -> list[str]:
    """The plan for people."""
    systems, seeds = len(arms(config)), len(config.seeds)
    stages = sum(isinstance(step.job, SegmenterJob | ClassifierJob | JointJob) for step in steps)
    epsilons = len(config.attack.threat.epsilons)
    own = f" and {len(config.systems)} of your own" if config.systems else ""
    text = [
        f"{config.experiment}: {systems} systems of {stages} trained stages{own}, {seeds} seed{'s' * (seeds > 1)};"
        f" {len(config.attack.attacks)} attacks at {epsilons} epsilon{'s' * (epsilons > 1)}"
    ]
    if not prepared:
        text.append(f"      prepare  new        {config.data.source} images into {config.prepared}")
    for number, step in enumerate(steps, start=1):
        cost = "" if step.progress == Progress.REUSED else f"  [{estimate([step])}]"
        text.append(f"{number:>4}  {step.job.verb:<7}  {step.progress.value:<9}  {step.job.title}{cost}")
    left = [step for step in steps if step.progress != Progress.REUSED]
    text.append(f"to do: {len(left)} of {len(steps)} jobs; {estimate(left)}")
    if any(step.seconds is None for step in left):
        text.append(
            "a pass is one image through one stage, forwards or backwards; what it takes is known once a job of the kind is done"
        )
    return text


def estimate(steps: Sequence[Step]) -> str:
    """How long steps will take: seconds where such jobs were timed here, and for the rest the passes, which are not guessed at."""
    if not steps:
        return "nothing is left to do"
    timed = [step.seconds for step in steps if step.seconds is not None]
    passes = [step.passes for step in steps if step.seconds is None]
    parts = [duration(sum(timed))] if timed else []
    if passes:
        known = [count for count in passes if count is not None]
        what = (
            f"at most {quantity(sum(known))} passes" if len(known) == len(passes) else "passes unknown until the data are prepared"
        )
        among = f" in {len(passes)} job{'s' * (len(passes) > 1)} of kinds not timed here yet" if len(steps) > 1 and timed else ""
        parts.append(what + among)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def quantity(count: int) -> str:
    """``840``, ``12 thousand``, ``3.4 million``."""
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f} thousand" if count < 999_500 else f"{count / 10**6:.1f} million"


def table(config: AblateConfig, cache: RunCache) -> list[str]:
    """Robust accuracy of the main arms by epsilon, with n. Intervals are in the report."""
    rows: list[Sequence[str]] = [[*_HEAD, *map(epsilon_text, config.attack.threat.epsilons)]]
    counted = "no images"
    for arm in arms(config):
        if arm.role != "main" or (state := cache.finished(arm)) is None:
            continue
        result = Summary.read(state.path / SUMMARY)
        one = arm.example
        n, groups = result.clean_accuracy.n, result.clean_accuracy.groups
        counted = f"n={n} images an arm" + (f" in {groups} photographs or tracks" if groups < n else "")
        segmenter = one.segmenter or one.classifier.segmenter
        row = [one.classifier.objective, segmenter.objective if segmenter else "-"]
        row += [one.classifier.masks.source.value, one.masks.source.value, str(one.seed)]
        rows.append([*row, *_figures(result)])
    for own in own_systems(config):
        if (state := cache.finished(own)) is not None:
            result = Summary.read(state.path / SUMMARY)
            rows.append([own.name, "-", "-", result.mask_source, str(own.seed), *_figures(result)])
    title = f"robust accuracy by {config.attack.threat.norm} epsilon{config.attack.threat.limits}, worst case of all attacks"
    return [f"{title}; {counted}; intervals are in the report", *aligned(rows)]


def _figures(result: Summary) -> list[str]:
    """Clean accuracy, mask IoU, robust accuracy by epsilon. Their intervals are the report's."""
    robust = (f"{point.robust_accuracy.number()} %" for point in result.curve)
    return [f"{result.clean_accuracy.number()} %", result.clean_mask_iou.number(".2f", 1), *robust]
