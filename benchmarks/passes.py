"""What a pass of an image through the stages of an experiment takes on this machine, and what the whole experiment comes to.

    python benchmarks/passes.py [--experiment coco] [--sides 96 224] [--batch 16] [--rounds 5] [--objects 100000 5000 5000]

Medians of interleaved rounds, untrained weights, float32. The passes of all jobs are counted for as many objects to train, to
validate and to test on as ``--objects`` says (``Job.passes``: at most so many). Their hours on this machine follow from the
measured seconds, and the operations from a count of multiplications and additions: what a GPU makes of these is for you to say.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from classifier.model import build_classifier
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import jobs
from pipeline.ablation.job import ImageCounts, Job, Passes
from pipeline.ablation.training_jobs import ClassifierJob, SegmenterJob
from pipeline.cli.composition import load_config
from segmenter.model import build_segmenter

CLASSES = 10


class Cost(NamedTuple):
    """Of one image through one stage."""

    forward_s: float
    backward_s: float
    """To the image."""
    forward_flop: float

    def of(self, passes: Passes) -> tuple[float, float]:
        """Seconds here, and operations; a pass backwards to the image has as many as one forwards."""
        return passes.forward * self.forward_s + passes.backward * self.backward_s, passes.total * self.forward_flop


def measure(stages: dict[str, nn.Module], side: int, batch: int, rounds: int) -> dict[str, Cost]:
    """The cost of each stage at an image size."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)

    def forward(stage: nn.Module) -> None:
        with torch.no_grad():
            stage(images)

    def step(stage: nn.Module) -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(stage(leaf).sum(), leaf)

    taken: dict[tuple[str, Callable[[nn.Module], None]], list[float]] = {}
    for _ in range(rounds + 1):  # the first warms up
        for name, stage in stages.items():
            for work in (forward, step):
                began = time.perf_counter()
                work(stage)
                taken.setdefault((name, work), []).append((time.perf_counter() - began) / batch)
    costs = {}
    for name, stage in stages.items():
        forward_s, step_s = (statistics.median(taken[name, work][1:]) for work in (forward, step))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            stage(images)
        costs[name] = Cost(forward_s=forward_s, backward_s=step_s - forward_s, forward_flop=counter.get_total_flops() / batch)
    return costs


def cost_of(job: Job, passes: Passes, costs: dict[str, Cost]) -> tuple[float, float]:
    """A job that goes through both stages makes half of its passes in each."""
    segmenter = isinstance(job, ClassifierJob | EvaluationJob) and job.segmenter is not None
    learned = segmenter and not (isinstance(job, EvaluationJob) and not job.masks.source.is_learned)
    if not learned:
        return costs["segmenter" if isinstance(job, SegmenterJob) else "classifier"].of(passes)
    half = Passes(forward=passes.forward // 2, backward=passes.backward // 2)
    both = [costs[name].of(half) for name in ("segmenter", "classifier")]
    return both[0][0] + both[1][0], both[0][1] + both[1][1]


def frozen(stage: nn.Module) -> nn.Module:
    """As it is attacked."""
    # eval() and frozen, as a stage is while it is attacked: a new one comes in training mode.
    return stage.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiment", default="coco")
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 224])
    parser.add_argument("--objects", type=int, nargs=3, default=[100_000, 5000, 5000], metavar=("TRAIN", "VAL", "TEST"))
    for name, default in (("batch", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    counts = ImageCounts(*chosen.objects, classes=CLASSES)
    for side in chosen.sides:
        words = [f"experiment={chosen.experiment}", "data.root=.", f"data.image_size={side}"]
        config = load_config("ablate", AblateConfig, words)
        stages: dict[str, nn.Module] = {
            "segmenter": frozen(build_segmenter(config.segmenter, seed=0)),
            "classifier": frozen(build_classifier(config.classifier, num_classes=CLASSES, seed=0)),
        }
        costs = measure(stages, side, chosen.batch, chosen.rounds)
        for name, cost in costs.items():
            times = f"{1000 * cost.forward_s:.1f} ms forwards, {1000 * cost.backward_s:.1f} ms backwards"
            print(f"{side} px, {name}: {times}, {cost.forward_flop / 1e9:.2f} GFLOP a pass", flush=True)
        step_s = sum(cost.forward_s + cost.backward_s for cost in costs.values())
        print(f"{side} px, both, one step of an attack: {1000 * step_s:.1f} ms")
        whole: dict[str, list[float]] = {}
        for job in jobs(config):
            passes = job.passes(config, counts)
            seconds, flop = cost_of(job, passes, costs)
            sums = whole.setdefault(job.verb, [0, 0, 0, 0])
            for place, value in enumerate((1, passes.total, seconds, flop)):
                sums[place] += value
        for verb, (number, passes, seconds, flop) in whole.items():
            print(
                f"{side} px, {verb}: {number:.0f} jobs, at most {passes / 1e6:,.0f} million passes, {seconds / 3600:,.0f} hours on"
                f" this machine with {torch.get_num_threads()} threads, {flop / 1e18:.2f} EFLOP"
            )


if __name__ == "__main__":
    main()
