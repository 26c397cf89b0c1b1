"""Everything that computes, on a GPU: held against the CPU, against itself once more, and against the definitions.

Without a GPU all is skipped. FOREGUARD_TEST_DEVICE=cpu runs the same on the CPU: then only the device is new where there is one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18

from classifier.config import ClassifierConfig
from pipeline import TwoStage, attack, evaluate, load_system, predict
from pipeline.ablation.counterfactual import rescored_margins
from pipeline.arithmetic import tf32_disabled
from pipeline.attacks.acceleration import Precision, attacked_copy
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.cuda_graphs import Graphed
from pipeline.attacks.measurements import Corruption
from pipeline.attacks.outside import AutoAttack
from pipeline.attacks.specs import AttackSpec, ClassAttack, ClassLoss, GradientPath, GuidedAttack, MaskAttack, MaskGoal
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.cli.main import main
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.data.synthetic import source as synthetic
from pipeline.evaluation.measuring import read_observations
from pipeline.evaluation.records import RecordStore, Status, read_records
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.runs.checkpoints import load_classifier, load_segmenter
from pipeline.system import attacked
from pipeline.training.awp import AwpConfig
from pipeline.training.commands import train_classifier, train_joint, train_segmenter
from pipeline.training.config import TrainClassifierConfig, TrainerConfig, TrainJointConfig, TrainSegmenterConfig
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, RobustValidationConfig, TradesConfig
from segmenter.config import SegmenterConfig

DEVICE = os.environ.get("FOREGUARD_TEST_DEVICE", "cuda")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
"""Of a command: ours, and packages that lie beside the interpreter's own, as on a lent machine."""
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as a command does, before the first product of matrices
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore:Attempting to run cuBLAS",  # torch, about the first product of a thread
        "ignore:the losses of AutoAttack need",
    ),
]
CLASSES = 4
QUICK = PgdConfig(epsilon=1 / 255, num_steps=2)
ROBUST = AdversarialConfig(attack=QUICK, validation=RobustValidationConfig(max_images=8))
TRAINER = TrainerConfig(
    epochs=2, batch_size=96, eval_batch_size=64, ema_decay=0.9, checkpoint_every=2, accelerator=DEVICE, trackers=(), lr=4e-3
)
SEGMENTER, CLASSIFIER = SegmenterConfig(decoder_channels=(16, 8, 8)), ClassifierConfig(width=4)
ROUNDING = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = synthetic.SyntheticConfig(num_train=480, num_val=32, num_test=32, num_classes=CLASSES)
    target = tmp_path_factory.mktemp("prepared") / "synthetic"
    write_prepared(synthetic.plan(config), target, name="synthetic", image_size=config.image_size, root=None, workers=0)
    return target


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``segmenter``, and ``none``, ``oracle`` and ``learned`` classifiers, trained on the device."""
    path = tmp_path_factory.mktemp("trained")
    longer = replace(TRAINER, epochs=8, batch_size=32, ema_decay=None)
    train_segmenter(TrainSegmenterConfig(prepared=prepared, run=path / "segmenter", segmenter=SEGMENTER, trainer=longer))
    for source in (MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED):
        train_classifier(
            TrainClassifierConfig(
                prepared=prepared,
                run=path / source.value,
                classifier=CLASSIFIER,
                masks=MaskConfig(source=source, fill=Fill.GREY),
                segmenter_run=path / "segmenter" if source == MaskSource.LEARNED else None,
                objective=ROBUST if source == MaskSource.NONE else NaturalConfig(),
                trainer=longer,
            )
        )
    return path


def of_test_split(prepared: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the test split: images, labels, masks and seeds, on the CPU."""
    dataset = open_prepared(prepared)
    batch = read_rows(dataset, dataset.indices("test"))
    return batch.images, batch.labels, batch.masks, batch.seeds


def weights(run: Path, name: str = "last") -> dict[str, Tensor]:
    stored = json.loads((run / "checkpoints" / f"{name}.json").read_text())
    return load_file(run / "checkpoints" / stored["weights"])


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        first, second = weights(one, name), weights(other, name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


# Training


def test_what_was_trained_scores_on_the_cpu_what_its_result_says(prepared: Path, trained: Path) -> None:
    images, labels, masks, _ = of_test_split(prepared)
    segmenter = load_segmenter(trained / "segmenter")[0].eval()
    for name in ("none", "oracle", "learned"):
        network = load_classifier(trained / name)[0].eval()
        with torch.no_grad():
            mask = {"none": torch.ones_like(masks), "oracle": masks, "learned": segmenter(images).sigmoid()}[name]
            right = (network(mask * images + (1 - mask) * 0.5).argmax(1) == labels).float().mean().item()
        result = json.loads((trained / name / "result.json").read_text())
        assert result["test"]["accuracy"] == pytest.approx(right, abs=1 / len(labels) + 1e-6)  # a tie may be turned by rounding
        assert name == "none" or right > 1.5 / CLASSES, "it has learned something"
        assert {value.device.type for value in weights(trained / name).values()} == {"cpu"}
    with torch.no_grad():
        found, expected = segmenter(images) > 0, masks >= 0.5
    iou = ((found & expected).flatten(1).sum(1) / (found | expected).flatten(1).sum(1).clamp_min(1)).mean().item()
    assert json.loads((trained / "segmenter" / "result.json").read_text())["test"]["iou"] == pytest.approx(iou, abs=1e-2)


def test_the_first_losses_are_those_of_the_cpu(prepared: Path, tmp_path: Path) -> None:
    """One step from the same weights: the loss that is reported is the mean over the same images at the same attacked points."""
    rows = {}
    for device in ("cpu", DEVICE):
        run = tmp_path / f"on-{device}-{len(rows)}"
        trainer = replace(TRAINER, accelerator=device, epochs=1, batch_size=96, ema_decay=None, lr=1e-6)
        train_classifier(
            TrainClassifierConfig(prepared=prepared, run=run, classifier=CLASSIFIER, objective=ROBUST, trainer=trainer)
        )
        rows[len(rows)] = pl.read_csv(run / "metrics.csv").to_dict(as_series=False)
    for name in ("train_loss", "val_loss"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3)


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        (ROBUST, {"optimizer": "sgd"}),
        (ROBUST, {"attack_precision": "bfloat16", "precision": "bf16-mixed"}),
        (AwpConfig(of=TradesConfig(attack=QUICK, validation=ROBUST.validation)), {"optimizer": "adamw"}),
    ],
    ids=["sgd", "bfloat16", "awp of trades, adamw"],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    prepared: Path, trained: Path, tmp_path: Path, objective: Any, changes: dict[str, Any], stopping: ModuleType
) -> None:
    config = TrainClassifierConfig(
        prepared=prepared,
        run=tmp_path / "run",
        classifier=CLASSIFIER,
        masks=MaskConfig(source=MaskSource.LEARNED, fill=Fill.GREY),
        segmenter_run=trained / "segmenter",
        objective=objective,
        trainer=replace(TRAINER, deterministic=True, **changes),
    )
    train_classifier(config)
    again = replace(config, run=tmp_path / "again", resume=True)
    for steps in (1, 3):  # before anything is saved, and after it
        with pytest.raises(stopping.Stop):
            train_classifier(stopping.stopped_after(again, steps))
    train_classifier(again)
    assert_same_weights(config.run, again.run)
    one, other = (pl.read_csv(run / "metrics.csv").to_dict(as_series=False) for run in (config.run, again.run))
    assert {**one, "seconds": []} == {**other, "seconds": []}


def test_a_segmenter_that_repeats_is_trained_twice_to_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    """The second time beside a process that reads the images."""
    runs = [tmp_path / "one", tmp_path / "other"]
    for number, run in enumerate(runs):
        trainer = replace(TRAINER, epochs=1, deterministic=True, attack_precision="bfloat16", num_workers=number)
        train_segmenter(TrainSegmenterConfig(prepared=prepared, run=run, segmenter=SEGMENTER, objective=ROBUST, trainer=trainer))
    assert_same_weights(*runs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_stages_are_trained_on_together(prepared: Path, trained: Path, tmp_path: Path, precision: str) -> None:
    config = TrainJointConfig(
        prepared=prepared,
        run=tmp_path / "joint",
        segmenter_run=trained / "segmenter",
        classifier_run=trained / "learned",
        objective=ROBUST,
        trainer=replace(TRAINER, epochs=1, attack_precision=precision, lr=1e-4),  # type: ignore[arg-type]
    )
    train_joint(config)
    images, labels, _, seeds = of_test_split(prepared)
    joint = load_system(config.run, device=DEVICE)
    with torch.no_grad(), attacked(joint):
        logits = joint(images.to(DEVICE), MaskContext(sample_seeds=seeds.to(DEVICE))).cpu()
    result = json.loads((config.run / "result.json").read_text())
    right = (logits.argmax(1) == labels).float().mean().item()
    assert result["test"]["accuracy"] == pytest.approx(right, abs=1 / len(labels) + 1e-6)
    for stage in ("segmenter", "classifier"):
        before = weights(trained / ("segmenter" if stage == "segmenter" else "learned"), "best")
        after = weights(config.run / stage)
        assert any(not torch.equal(before[name], after[name]) for name in before), stage


# Evaluation


@pytest.fixture(scope="module")
def run_evaluation(prepared: Path, trained: Path) -> Callable[..., int]:
    def command(run: Path, name: str, *words: str, device: str = DEVICE) -> int:
        fixed = [f"prepared={prepared}", f"classifier_run={trained / name}", f"run={run}", f"accelerator={device}"]
        return main(["evaluate", *fixed, "part_size=12", "batch_size=8", *words])

    return command


SHORT = (
    "attack=standard",
    *(f"attack.attacks.{name}.num_steps=6" for name in ("pgd-margin", "apgd-ce", "apgd-margin", "apgd-targeted", "balanced")),
    *(f"attack.attacks.{name}.num_steps=4" for name in ("pixel-path", "mask-path", "joint-collapse", "joint-flood", "steal")),
    *(f"attack.attacks.{name}.num_steps=4" for name in ("joint-invert", "collapse", "flood", "invert-clean", "soft-gate")),
    *(
        f"attack.attacks.guided-{name}.{steps}_steps=3"
        for name in ("collapse", "flood", "invert", "steal")
        for steps in ("mask", "class")
    ),
    "attack.attacks.apgd-margin.restarts=1",
    "attack.attacks.square.num_queries=40",
    "attack.threat.epsilons=[0,0.5/255,4/255]",
    "max_images=24",
    "save_images=true",
)
FAST = ("attack=fast", "attack.threat.epsilons=[0.5/255,2/255]", "max_images=24", "save_images=true")


def records_of(run: Path) -> pl.DataFrame:
    return read_records(run).sort("sample_id", "epsilon", "attack").drop("seconds")


@pytest.fixture(scope="module")
def evaluated(run_evaluation: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``standard`` and ``fast`` of the system with learned masks, on the device."""
    path = tmp_path_factory.mktemp("evaluated")
    assert run_evaluation(path / "standard", "learned", *SHORT, "gallery_images=2") == 0
    assert run_evaluation(path / "fast", "learned", *FAST) == 0
    return path


@pytest.mark.parametrize("suite", ["standard", "fast"])
def test_clean_verdicts_are_those_of_the_cpu_and_what_was_found_fools_there_too(
    prepared: Path, trained: Path, evaluated: Path, suite: str
) -> None:
    """By the plain networks, mask and fill written out: nothing of the evaluation's own scoring."""
    records, store = read_records(evaluated / suite), RecordStore(evaluated / suite)
    dataset = open_prepared(prepared)
    row_of = {sample_id: row for row, sample_id in enumerate(dataset.samples["sample_id"].to_list())}
    segmenter, network = load_segmenter(trained / "segmenter")[0].eval(), load_classifier(trained / "learned")[0].eval()

    def scored(images: Tensor) -> Tensor:
        with torch.no_grad():
            masks = segmenter(images).sigmoid()
            return network(masks * images + (1 - masks) * 0.5)

    attacks, epsilons = records["attack"].n_unique(), records["epsilon"].n_unique()
    assert len(records) == 24 * attacks * epsilons
    assert records.null_count().select(pl.exclude("found_by", "found_epsilon")).sum_horizontal().item() == 0
    first = records.unique("sample_id", maintain_order=True)
    clean = read_rows(dataset, np.array([row_of[one] for one in first["sample_id"]]))
    logits = scored(clean.images)
    likeliest = logits.topk(2, dim=1).values
    sure = (likeliest[:, 0] - likeliest[:, 1] > 1e-3).numpy()
    assert sure.mean() > 0.9
    assert (logits.argmax(1).numpy() == first["clean_prediction"].to_numpy())[sure].all()
    torch.testing.assert_close(
        torch.from_numpy(first["clean_margin"].to_numpy().copy()), by_definition(logits, clean.labels).double(), **ROUNDING
    )
    found = fooled = 0
    for unit in store.units():
        table = store.read(unit).filter(pl.col("status") == Status.ATTACKED)
        images = torch.from_numpy(store.read_images(unit).copy())
        assert len(images) == len(table)
        if not len(table):
            continue
        batch = read_rows(dataset, np.array([row_of[one] for one in table["sample_id"]]))
        epsilon = float(table["epsilon"][0])
        assert (images.double() - batch.images.double()).abs().max() <= epsilon * (1 + 1e-9)
        assert images.min() >= 0
        assert images.max() <= 1
        margins = by_definition(scored(images), batch.labels)
        torch.testing.assert_close(torch.from_numpy(table["adversarial_margin"].to_numpy().copy()), margins.double(), **ROUNDING)
        claimed = torch.from_numpy((table["adversarial_prediction"] != table["label"]).to_numpy())
        found += len(table)
        fooled += int(claimed.sum())
        assert (margins[claimed] > -1e-3).all()
        assert (margins[~claimed] < 1e-3).all()
    assert 0 < fooled < found


def by_definition(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus the label's."""
    return torch.stack(
        [torch.cat([row[:label], row[label + 1 :]]).max() - row[label] for row, label in zip(logits, labels, strict=True)]
    )


def test_robust_accuracy_is_about_that_of_the_cpu(run_evaluation: Callable[..., int], evaluated: Path, tmp_path: Path) -> None:
    assert run_evaluation(tmp_path / "cpu", "learned", *FAST, device="cpu") == 0
    here, there = (json.loads((run / "summary.json").read_text()) for run in (evaluated / "fast", tmp_path / "cpu"))
    for one, other in zip(here["curve"], there["curve"], strict=True):
        assert one["robust_accuracy"]["value"] == pytest.approx(other["robust_accuracy"]["value"], abs=3 / 24)


def test_the_same_evaluation_once_more_and_shared_by_two_processes_has_the_same_records(
    run_evaluation: Callable[..., int], evaluated: Path, tmp_path: Path
) -> None:
    assert run_evaluation(tmp_path / "again", "learned", *FAST) == 0
    assert_frame_equal(records_of(tmp_path / "again"), records_of(evaluated / "fast"), check_exact=True)
    assert run_evaluation(tmp_path / "shared", "learned", *FAST, "devices=2") == 0
    assert_frame_equal(records_of(tmp_path / "shared"), records_of(evaluated / "fast"), check_exact=True)


def test_several_commands_that_share_a_run_have_the_records_of_one(
    prepared: Path, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    words = [f"prepared={prepared}", f"classifier_run={trained / 'learned'}", f"run={tmp_path / 'run'}", f"accelerator={DEVICE}"]
    command = [sys.executable, "-m", "pipeline", "evaluate", *words, "part_size=12", "batch_size=8", *FAST, "shared=true"]
    processes = [
        subprocess.Popen(
            command, env=ENVIRONMENT | {"LOCAL_RANK": str(number)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for number in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert_frame_equal(records_of(tmp_path / "run"), records_of(evaluated / "fast"), check_exact=True)


@pytest.mark.parametrize("name", ["oracle", "learned"])
def test_the_sanity_checks_say_what_they_say_on_the_cpu(run_evaluation: Callable[..., int], tmp_path: Path, name: str) -> None:
    words = ["attack=fast", "attack.threat.epsilons=[2/255]", "max_images=12", "sanity=true", "sanity_images=4", "save_images=true"]
    outcomes = {}
    for number, device in enumerate(("cpu", DEVICE)):
        assert run_evaluation(tmp_path / str(number), name, *words, device=device) == 0
        checks = json.loads((tmp_path / str(number) / "sanity.json").read_text())["checks"]
        outcomes[number] = {check["name"]: (check["outcome"], check["finding"]) for check in checks}
    assert outcomes[0].keys() == outcomes[1].keys()
    different = {one: (outcomes[0][one], outcomes[1][one]) for one in outcomes[0] if outcomes[0][one][0] != outcomes[1][one][0]}
    assert not different


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("source", [source for source in MaskSource if source is not MaskSource.JOINT])
def test_every_mask_source_is_attacked_as_on_the_cpu(small: ModuleType, source: MaskSource, norm: str) -> None:
    """Without restarts a search is deterministic but for rounding: margins of both are about the same."""
    found = []
    images, context = small.pictures()
    for device in ("cpu", DEVICE):
        system = small.system(source).to(device)
        on_device = MaskContext(*(None if one is None else one.to(device) for one in context))
        points, known = images.to(device), system.freeze(images.to(device), on_device)
        with torch.no_grad():
            clean = system(points, known)
        copy = attacked_copy(system, points)
        with torch.no_grad():
            torch.testing.assert_close(copy(points, known), clean, **ROUNDING)  # type: ignore[operator]
        found.append(clean.cpu())
    torch.testing.assert_close(*found, **ROUNDING)
    if source.substitute is not None:
        return  # those of ``attack`` come from a data set
    radius = {"linf": 4 / 255, "l2": 0.5, "l1": 5.0}[norm]
    system = small.system(source).to(DEVICE)
    labels = found[0].argmax(1)
    given = (images.to(DEVICE), labels.to(DEVICE), ClassAttack(search="apgd", loss=ClassLoss.MARGIN, num_steps=12))
    adversarial = attack(system, *given, epsilon=radius, norm=norm, masks=context.oracle_masks)  # type: ignore[arg-type]
    assert adversarial.device.type == DEVICE
    change = (adversarial.cpu().double() - images.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    assert torch.linalg.vector_norm(change, ord=order, dim=1).max() <= radius * (1 + 1e-6)


class Peeking(nn.Module):
    """Looks at a value on the way, which no recording can."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2).mean(2) if float(images.detach().max()) <= 1 else images.flatten(2).amax(2)


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded on a CPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("source", [MaskSource.NONE, MaskSource.LEARNED, MaskSource.LEARNED_HARD])
def test_recorded_passes_are_those_of_the_copy(small: ModuleType, source: MaskSource, precision: Precision) -> None:
    images, context = small.pictures()
    images, system = images.to(DEVICE), small.system(source).to(DEVICE)
    known = MaskContext(*(None if one is None else one.to(DEVICE) for one in context))
    tolerance = {"float32": 1e-3, "bf16": 0.2}[precision]  # batches are filled up, and others are rounded otherwise
    with tf32_disabled(torch.device(DEVICE)):
        copy, plain = (attacked_copy(system, images, precision=precision) for _ in range(2))
        assert isinstance(plain, TwoStage)
        plain.map_stages(lambda stage: stage.stage)  # type: ignore[return-value]
        for number in (len(images), 3, 1):
            rows = torch.arange(number, device=DEVICE)
            for _ in range(4):
                leaf = images[:number].clone().requires_grad_()
                answers = [one(leaf, known.select(rows)) for one in (copy, plain)]  # type: ignore[operator]
                with torch.no_grad():
                    answers.append(copy(leaf, known.select(rows)))  # type: ignore[operator]
                gradients = [torch.autograd.grad(answer.square().sum(), leaf)[0] for answer in answers[:2]]
                for found, expected in ((answers[0], answers[1]), (answers[2], answers[1]), tuple(gradients)):
                    assert (found - expected).norm() <= tolerance * expected.norm()
    recorded = [module for module in copy.modules() if isinstance(module, Graphed)]
    assert recorded
    assert all(module._recorded for module in recorded if module is not getattr(copy, "segmenter", None) or source.is_learned)


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded on a CPU")
def test_what_cannot_be_recorded_runs_as_it_is_and_leaves_the_device_usable() -> None:
    graphed, alone = Graphed(Peeking()), Peeking()
    for _ in range(6):
        images = torch.rand(8, 3, 16, 16, device=DEVICE).requires_grad_()
        torch.testing.assert_close(graphed(images), alone(images))
        gradients = [torch.autograd.grad(one(images).sum(), images)[0] for one in (graphed, alone)]
        torch.testing.assert_close(*gradients)
    assert not graphed._recorded
    again = Graphed(nn.Conv2d(3, 4, 3).to(DEVICE).requires_grad_(False))
    for number in range(6):
        images = torch.rand(number + 1, 3, 16, 16, device=DEVICE)
        torch.testing.assert_close(again(images), again.stage(images), **ROUNDING)
    assert again._recorded


ATTACKS: dict[str, AttackSpec] = {
    "pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=4, restarts=2),
    "targeted": ClassAttack(loss=ClassLoss.DLR, num_targets=2, num_steps=4),
    "balanced": ClassAttack(path=GradientPath.BALANCED, num_steps=4),
    "soft": ClassAttack(gate="soft", num_steps=4),
    "flood": MaskAttack(goal=MaskGoal.FLOOD, loss=ClassLoss.MARGIN, num_steps=3),
    "guided": GuidedAttack(goal=MaskGoal.COLLAPSE, mask_steps=3, class_steps=3),
    "autoattack": AutoAttack(attacks=("apgd-ce", "square"), num_queries=10),
}


@pytest.mark.parametrize(
    ("source", "region"),
    [(MaskSource.LEARNED_HARD, Region.BACKGROUND), (MaskSource.LEARNED, Region.BOUNDARY)],
    ids=["hard", "soft"],
)
def test_attacks_confined_to_a_region_change_nothing_else(small: ModuleType, source: MaskSource, region: Region) -> None:
    images, context = small.pictures()
    masks = context.oracle_masks
    system = small.system(source).to(DEVICE)
    with torch.no_grad():
        labels = system(images.to(DEVICE)).argmax(1).cpu()
    threat = ThreatModel(norm="linf", epsilons=(0.0, 0.02), region=region)
    loader = [(images[rows], labels[rows], masks[rows]) for rows in torch.arange(len(images)).split(8)]
    result = evaluate(system, loader, attacks=ATTACKS, threat=threat, batch_size=8)
    assert result.clean_accuracy().value == 1
    points = attack(system, images, labels, ATTACKS["pgd"], epsilon=0.02, masks=masks, threat=threat)
    changed = (points != images).any(dim=1, keepdim=True)
    inside = masks > 0
    may = {Region.FOREGROUND: inside, Region.BACKGROUND: ~inside, Region.OUTSIDE_BOX: ~inside}.get(region, torch.ones_like(inside))
    assert changed.any()
    assert not (changed & ~may).any()


MEASUREMENTS = (
    "+attack.measurements={patches: {kind: patches, shares: [0.1], attack: {num_steps: 3}}, "
    " nearest: {kind: minimum-norm, num_steps: 5},"
    " decisions: {kind: decision-based, num_steps: 1, max_probes: 10}, backgrounds: {kind: backgrounds},"
    " corruptions: {kind: corruptions, severities: [3]},"
    " smoothing: {kind: smoothing, sigma: 0.1, num_selection: 4, num_draws: 20, num_steps: 2, attack_draws: 2}}"
)


def test_what_is_measured_beside_the_attacks_is_about_what_it_is_on_the_cpu(
    run_evaluation: Callable[..., int], tmp_path: Path
) -> None:
    words = ["attack=quickstart", "attack.threat.epsilons=[2/255]", MEASUREMENTS, "max_images=8"]
    tables = []
    for number, device in enumerate(("cpu", DEVICE)):
        assert run_evaluation(tmp_path / str(number), "learned", *words, device=device) == 0
        table = read_observations(tmp_path / str(number))
        assert table is not None
        tables.append(table.sort("measurement", "condition", "level", "sample_id").drop("seconds"))
    keys = ["measurement", "condition", "level", "sample_id", "counted", "label", "claim", "kind"]
    assert_frame_equal(tables[0].select(keys), tables[1].select(keys))
    for kind in ("corruptions", "backgrounds"):  # nothing is searched here
        one, other = (table.filter(pl.col("kind") == kind)["prediction"].to_numpy() for table in tables)
        assert (one == other).mean() > 0.97
    assert set(tables[0].filter(pl.col("kind") == "corruptions")["condition"]) >= {each.value for each in Corruption}


def test_the_decomposition_scores_saved_images_as_the_cpu_does(prepared: Path, trained: Path, evaluated: Path) -> None:
    margins = []
    for device in map(torch.device, ("cpu", DEVICE)):
        system = load_system(trained / "learned", device=device.type)
        with tf32_disabled(device):  # as its job does
            margins.append(rescored_margins(system, open_prepared(prepared), [evaluated / "fast"], batch_size=8, device=device))
    assert_frame_equal(*margins, rel_tol=1e-3, abs_tol=1e-3)


def test_bf16_gradients_find_points_that_fool_in_float32(
    run_evaluation: Callable[..., int], evaluated: Path, tmp_path: Path
) -> None:
    assert run_evaluation(tmp_path / "bf16", "learned", *FAST, "precision=bf16") == 0
    exact, rough = (json.loads((run / "summary.json").read_text())["curve"] for run in (evaluated / "fast", tmp_path / "bf16"))
    for one, other in zip(exact, rough, strict=True):
        assert one["robust_accuracy"]["value"] == pytest.approx(other["robust_accuracy"]["value"], abs=3 / 24)


# From Python, and the other commands


def test_a_plain_module_is_evaluated_with_its_checks(prepared: Path) -> None:
    images, labels, _, _ = of_test_split(prepared)
    torch.manual_seed(0)
    model = nn.Sequential(resnet18(num_classes=CLASSES)).to(DEVICE).eval()
    with torch.no_grad():
        labels = model(images.to(DEVICE)).argmax(1).cpu()
    loader = [(images[:8], labels[:8]), (images[8:12].to(DEVICE), labels[8:12].to(DEVICE))]  # wherever they lie
    first, again = (evaluate(model, loader[:1], epsilons=["1/255"], attacks="fast") for _ in range(2))
    assert first.clean_accuracy().value == 1
    assert_frame_equal(first.outcomes.drop("seconds"), again.outcomes.drop("seconds"), check_exact=True)
    assert evaluate(model, loader[1:], epsilons=["1/255"], attacks="fast").clean_accuracy().value == 1
    thin = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    thin.eval()(images[:1])
    with torch.no_grad():
        labels = thin.to(DEVICE)(images.to(DEVICE)).argmax(1).cpu()
    checked = evaluate(thin, [(images[:8], labels[:8])], epsilons=["1/255"], attacks="fast", diagnostics=True)
    assert checked.checks
    assert len({check.name for check in checked.checks}) > 10


def test_on_a_linear_model_the_closed_form_is_reached(prepared: Path) -> None:
    images, _, _, _ = of_test_split(prepared)
    images = images * 0.8 + 0.1
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2)).to(DEVICE)
    with torch.no_grad():
        weight, bias = (
            value.cpu().double() for value in (model[1].weight[1] - model[1].weight[0], model[1].bias[1] - model[1].bias[0])
        )
        scores = images.double().flatten(1) @ weight + bias
        labels = (scores > 0).long()
    needed = (scores.abs() / weight.abs().sum()).sort().values
    epsilon = float((needed[15] + needed[16]) / 2)
    steps = {"pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=5)}
    assert evaluate(model, [(images, labels)], epsilons=[epsilon], attacks=steps).robust_accuracy(epsilon).value == 0.5


def test_predict_says_what_the_cpu_says(prepared: Path, trained: Path, tmp_path: Path) -> None:
    images, _, _, _ = of_test_split(prepared)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(images[:6]):
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(pictures / f"{number}.png")
    said = {}
    for number, device in enumerate(("cpu", DEVICE)):
        out = tmp_path / str(number)
        assert main(["predict", f"images={pictures}", f"run={trained / 'learned'}", f"out={out}", f"accelerator={device}"]) == 0
        said[number] = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        drawn = [np.asarray(Image.open(out / line["mask"])).astype(int) for line in said[number]]
        said[number] = [(line["class"], line["confidence"], mask) for line, mask in zip(said[number], drawn, strict=True)]
    for (one, sure, mask), (other, also, same) in zip(said[0], said[1], strict=True):
        assert one == other
        assert sure == pytest.approx(also, abs=1e-4)
        assert np.abs(mask - same).max() <= 1
    here, there = (predict(load_system(trained / "learned", device=device), images) for device in (DEVICE, "cpu"))
    torch.testing.assert_close(here.masks, there.masks, rtol=0, atol=1e-4)
    torch.testing.assert_close(here.confidences, there.confidences, rtol=0, atol=1e-4)
    assert torch.equal(here.labels, there.labels)


def test_float32_is_float32(prepared: Path) -> None:
    """Against float64 on the CPU: TF32 keeps ten binary digits, and would be off by a thousandth."""
    images, _, _, _ = of_test_split(prepared)
    torch.manual_seed(0)
    system = TwoStage(resnet18(num_classes=CLASSES), segmenter=nn.Conv2d(3, 1, 9, padding=4), masks="learned", fill="grey").eval()
    with torch.no_grad():
        exact = system.double()(images.double())
    system.float().to(DEVICE)
    torch.set_float32_matmul_precision("high")
    try:
        seen = predict(system, images).confidences
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(seen.double(), exact.softmax(1).amax(1), rtol=0, atol=2e-5)


def test_a_tiny_ablation_goes_to_its_report_in_two_processes(tiny: ModuleType, tmp_path: Path) -> None:
    words = [f"run={tmp_path / 'run'}", f"prepared={tmp_path / 'prepared'}", *tiny.ABLATION, "devices=2", "silhouette=true"]
    words += [f"{one}.accelerator={DEVICE}" for one in ("segmenter_trainer", "classifier_trainer", "evaluation")]
    words += ["decomposition={num_steps: 2}"]
    command = [sys.executable, "-m", "pipeline", "ablate", *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "report: " in done.stdout
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_doctor_names_the_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "min_disk=0", "min_memory=0"]) in (0, 2)
    said = capsys.readouterr().out
    assert (torch.cuda.get_device_name(0) if DEVICE == "cuda" else "CPU") in said
