"""Suites: every attack on every system, worst cases against single attacks, and verdicts that do not depend on the batch."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.outside import AutoAttack, SquareAttack
from pipeline.attacks.patch_attack import PatchAttack
from pipeline.attacks.pgd import pgd_l2
from pipeline.attacks.regions import region_masks
from pipeline.attacks.runner import AttackResult, run_attack, run_start, skipped_attacks
from pipeline.attacks.specs import (
    AttackSpec,
    ClassAttack,
    ClassLoss,
    Conditions,
    GradientPath,
    GuidedAttack,
    MaskAttack,
    MaskGoal,
)
from pipeline.attacks.start import AttackBatch, AttackStart
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Knowledge, Region, ThreatModel
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import GuideMasks
from pipeline.cli.composition import load_config
from pipeline.config import to_plain, validate
from pipeline.errors import ConfigError
from pipeline.evaluation.chunks import Chunk
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluator import EvaluationSettings, attack_chunk
from pipeline.evaluation.records import MemoryStore
from pipeline.masks.config import Fill, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.traits import MaskTraits
from pipeline.system import TwoStage

Make = Callable[..., TwoStage]
MakeBatch = Callable[..., tuple[Tensor, Tensor, MaskContext]]
CONFIGS = Path(__file__).parents[3] / "configs" / "attack"

KINDS: dict[str, AttackSpec] = {
    "pgd": ClassAttack(search="pgd", num_steps=3),
    "apgd-margin": ClassAttack(loss=ClassLoss.MARGIN, num_steps=3, restarts=2),
    "apgd-targeted": ClassAttack(loss=ClassLoss.DLR, num_targets=2, num_steps=3),
    **{f"path-{path}": ClassAttack(path=path, num_steps=3) for path in GradientPath if path is not GradientPath.BOTH},
    "soft-gate": ClassAttack(gate="soft", num_steps=3),
    **{f"mask-{goal}": MaskAttack(goal=goal, num_steps=3) for goal in MaskGoal},
    **{f"joint-{goal}": MaskAttack(goal=goal, loss=ClassLoss.MARGIN, search="pgd", num_steps=3) for goal in MaskGoal},
    **{f"guided-{goal}": GuidedAttack(goal=goal, mask_steps=2, class_steps=2) for goal in MaskGoal},
    "square": SquareAttack(num_queries=4),
    "autoattack": AutoAttack(attacks=("square",), num_queries=4),
}


def batch_of(system: TwoStage, make_batch: MakeBatch, size: int = 4) -> AttackBatch:
    images, labels, context = make_batch(system, size)
    assert context.sample_seeds is not None
    pool = (torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    guides = GuideMasks(pool, torch.arange(6) % 5)
    return AttackBatch(system=system, images=images, labels=labels, context=context, seeds=context.sample_seeds, guides=guides)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The worst case of each image over a suite, at one epsilon."""

    images: Tensor
    margins: Tensor
    misclassified: Tensor
    found_by: list[str | None]


def run_all(suite: AttackSuite, batch: AttackBatch, run_seed: int = 0) -> list[Found]:
    """A suite on plain tensors, through the loop that evaluations go through."""
    skipped = skipped_attacks(suite, batch)
    suite = replace(suite, attacks={name: spec for name, spec in suite.attacks.items() if name not in skipped})
    run = EvaluationSettings(
        system=batch.system, system_id="", suite=suite, seed=run_seed, batch_size=3, attack_all=False, save_images=True
    )
    store, ids = MemoryStore(), [f"{row:03d}" for row in range(len(batch))]
    attack_chunk(run, store, Chunk(batch, sample_ids=ids, groups=ids, batch_size=3), run.units(0), batch.system, advance=[].append)
    results: list[Found] = []
    images, margins = batch.images.clone(), verdict(batch.system, batch.images, batch.labels, batch.context).margins
    for unit in run.units(0):
        records = store.read(unit)
        assert records["sample_id"].to_list() == ids
        attacked = torch.from_numpy((records["status"] == "attacked").to_numpy().nonzero()[0])
        found = records["adversarial_margin"].to_torch()[attacked].to(margins)
        better = found > margins[attacked]
        images[attacked[better]] = torch.from_numpy(store.read_images(unit)).to(images)[better]
        margins[attacked[better]] = found[better]
        if unit.attack == len(suite.attacks) - 1:
            wrong = (records["adversarial_prediction"] != records["label"]).to_torch()
            names = [None if not mark else name or "clean" for mark, name in zip(wrong.tolist(), records["found_by"], strict=True)]
            results.append(Found(images=images.clone(), margins=margins.clone(), misclassified=wrong, found_by=names))
    return results


@pytest.mark.parametrize(
    ("source", "fill", "knowledge", "norm"),
    [(source, Fill.GREY, Knowledge.WHITE_BOX, norm) for source in MaskSource for norm in ("linf", "l2")]
    + [(MaskSource.LEARNED, fill, Knowledge.WHITE_BOX, "linf") for fill in (Fill.NOISE, Fill.BLUR)]
    + [(source, Fill.NOISE, Knowledge.HIDDEN_SEED, "l2") for source in (MaskSource.NONE, MaskSource.LEARNED_HARD)]
    + [(MaskSource.RANDOM, Fill.GREY, Knowledge.HIDDEN_SEED, "linf")],
)
def test_every_attack_runs_on_every_system_and_one_image_or_says_why_not(
    source: MaskSource, fill: Fill, knowledge: Knowledge, norm: str, make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(source, fill)
    batch = batch_of(system, make_batch, 1)
    epsilon = {"linf": 0.002, "l2": 0.05}[norm]
    threat = ThreatModel(norm=norm, epsilons=(epsilon,), knowledge=knowledge, num_draws=2)  # type: ignore[arg-type]
    skipped = skipped_attacks(AttackSuite(threat=threat, attacks=KINDS), batch)
    for name, spec in KINDS.items():
        if name in skipped:
            continue
        found = run_attack(name, spec, batch, threat=threat, epsilon=epsilon, run_seed=0)
        delta = found.images.double() - batch.images.double()
        length = delta.abs().max() if norm == "linf" else delta.norm()
        assert length <= epsilon
        scored = verdict(system, found.images, batch.labels, batch.context)
        assert torch.equal(scored.misclassified, found.misclassified)
        torch.testing.assert_close(scored.margins, found.margins)
        # pyautoattack gives back the image where it found nothing, a mask may go its way without hurting the class, and what is
        # best on average may be worse for the true seed.
        if name not in ("square", "autoattack") and not name.startswith("mask") and knowledge is Knowledge.WHITE_BOX:
            assert length > 0, "an attack that does not move is no attack"
            assert found.margins > verdict(system, batch.images, batch.labels, batch.context).margins
    expected = set() if source.is_learned else {name for name in KINDS if name.startswith(("path", "mask", "joint", "guided"))}
    expected |= set() if source is MaskSource.LEARNED_HARD else {"soft-gate"}
    uses_seeds = source is MaskSource.RANDOM or (fill is Fill.NOISE and source is not MaskSource.NONE)
    expected |= {"square", "autoattack"} if uses_seeds and knowledge is Knowledge.HIDDEN_SEED else set()
    assert set(skipped) == expected


@pytest.mark.parametrize("source", list(MaskSource))
def test_a_large_epsilon_leaves_no_arm_standing(source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    suite = AttackSuite(
        threat=ThreatModel(epsilons=(0.5,)), attacks={"apgd": ClassAttack(loss=ClassLoss.MARGIN, num_steps=20, restarts=2)}
    )
    assert run_all(suite, batch_of(make_system(source), make_batch, 8))[0].misclassified.all()


@given(
    source=st.sampled_from([MaskSource.ORACLE, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.RANDOM, MaskSource.BOX]),
    kinds=st.lists(st.sampled_from(["zeros", "ones", "random"]), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_masks_of_any_kind_are_attacked_without_a_crash(
    source: MaskSource, kinds: list[str], seed: int, make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(source)
    batch = batch_of(system, make_batch, len(kinds))
    generator = torch.Generator().manual_seed(seed)
    every = {"zeros": torch.zeros(1, 16, 16), "ones": torch.ones(1, 16, 16), "random": torch.rand(1, 16, 16, generator=generator)}
    assert batch.context is not None
    context = batch.context._replace(oracle_masks=torch.stack([every[kind] for kind in kinds]))
    batch = AttackBatch(
        system=system,
        images=batch.images,
        labels=system(batch.images, context).argmax(1),
        context=context,
        seeds=batch.seeds,
        guides=GuideMasks(torch.stack([every["zeros"], every["ones"], every["random"]]), torch.tensor([0, 1, 2])),
    )
    threat = ThreatModel(epsilons=(0.02,))
    for result in run_all(AttackSuite(threat=threat, attacks=KINDS), batch):
        assert ((result.images.double() - batch.images.double()).abs() <= 0.02).all()
        again = verdict(system, result.images, batch.labels, context)
        torch.testing.assert_close(again.margins, result.margins, rtol=0, atol=1e-4)
        told = again.margins.abs() > 1e-4  # a mask of nothing leaves margins near 0, whose sign is rounding of the batch
        assert torch.equal(again.misclassified[told], result.misclassified[told])


def test_the_worst_case_is_the_union_of_the_attacks_run_alone(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.LEARNED), make_batch, 16)
    threat = ThreatModel(epsilons=(0.006,))
    attacks: dict[str, AttackSpec] = {
        "weak": ClassAttack(search="pgd", num_steps=1),
        "collapse": MaskAttack(goal=MaskGoal.COLLAPSE, num_steps=5),
        "strong": ClassAttack(loss=ClassLoss.MARGIN, num_steps=10),
    }
    alone = {name: run_attack(name, spec, batch, threat=threat, epsilon=0.006, run_seed=3) for name, spec in attacks.items()}
    result = run_all(AttackSuite(threat=threat, attacks=attacks), batch, run_seed=3)[0]
    union = torch.stack([found.misclassified for found in alone.values()]).any(0)
    assert torch.equal(result.misclassified, union)
    assert 0 < union.sum() < 16, "the comparison needs images of both kinds"
    for row in range(16):
        first = next((name for name, found in alone.items() if found.misclassified[row]), None)
        assert result.found_by[row] == first
        if first is not None:
            torch.testing.assert_close(result.images[row], alone[first].images[row], rtol=0, atol=1e-6)
        else:
            best = max(float(found.margins[row]) for found in alone.values())
            assert math.isclose(float(result.margins[row]), best, rel_tol=1e-3, abs_tol=1e-4)


@pytest.mark.parametrize("source", [MaskSource.ORACLE, MaskSource.LEARNED_HARD, MaskSource.RANDOM])
def test_the_verdict_of_an_image_does_not_depend_on_its_batch(source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(source, dtype=torch.float64)
    images, labels, context = make_batch(system, 6, dtype=torch.float64)
    assert context.sample_seeds is not None
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=context.sample_seeds)
    attacks: dict[str, AttackSpec] = {
        "apgd": ClassAttack(num_steps=4, restarts=2),
        "targeted": ClassAttack(loss=ClassLoss.MARGIN, search="pgd", num_targets=2, num_steps=3),
        "square": SquareAttack(num_queries=10, restarts=2),
    }
    suite = AttackSuite(threat=ThreatModel(epsilons=(0.003, 0.008)), attacks=attacks)
    together = run_all(suite, batch)
    order = torch.tensor([4, 0, 3])
    for few, all_of_them in zip(run_all(suite, batch.select(order)), together, strict=True):
        torch.testing.assert_close(few.images, all_of_them.images[order], rtol=0, atol=1e-9)
        assert torch.equal(few.misclassified, all_of_them.misclassified[order])
        assert few.found_by == [all_of_them.found_by[row] for row in order]


def test_seeds_come_from_the_run_the_image_the_name_and_the_start(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.NONE), make_batch, 2)
    spec = ClassAttack(search="pgd", num_steps=4)
    threat = ThreatModel(norm="l2")

    def found(name: str, run_seed: int) -> Tensor:
        return run_attack(name, spec, batch, threat=threat, epsilon=0.01, run_seed=run_seed).images

    assert torch.equal(found("a", 0), found("a", 0))
    assert not torch.equal(found("a", 0), found("a", 1))
    assert not torch.equal(found("a", 0), found("b", 0))


def test_a_curve_never_rises_and_a_misclassified_image_keeps_its_first_adversarial_image(
    make_system: Make, make_batch: MakeBatch
) -> None:
    batch = batch_of(make_system(MaskSource.LEARNED), make_batch, 16)
    suite = AttackSuite(
        threat=ThreatModel(epsilons=(0.0, 0.002, 0.008, 0.02)),
        attacks={"apgd": ClassAttack(num_steps=3), "square": SquareAttack(num_queries=3)},
    )
    results = run_all(suite, batch)
    assert not results[0].misclassified.any()
    assert torch.equal(results[0].images, batch.images)
    for before, after in itertools.pairwise(results):
        assert (after.misclassified | ~before.misclassified).all()
        kept = before.misclassified
        assert torch.equal(after.images[kept], before.images[kept])
        assert (after.margins >= before.margins).all()
    assert 0 < results[1].misclassified.sum() < results[-1].misclassified.sum()


def test_what_is_misclassified_as_it_is_needs_no_attack(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(), make_batch, 3)
    wrong = AttackBatch(
        system=batch.system, images=batch.images, labels=(batch.labels + 1) % 5, context=batch.context, seeds=batch.seeds
    )
    result = run_all(AttackSuite(attacks={"apgd": ClassAttack()}), wrong)[0]
    assert result.found_by == ["clean"] * 3
    assert torch.equal(result.images, batch.images)


@pytest.mark.parametrize("region", [Region.FOREGROUND, Region.BACKGROUND, Region.BOUNDARY, Region.OUTSIDE_BOX])
def test_every_attack_stays_in_the_region(region: Region, make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.LEARNED_HARD), make_batch, 2)
    threat = ThreatModel(epsilons=(0.03,), region=region)
    assert batch.context is not None
    assert batch.context.oracle_masks is not None
    allowed = region_masks(region, batch.context.oracle_masks, radius=threat.region_radius)
    for name, spec in KINDS.items():
        found = run_attack(name, spec, batch, threat=threat, epsilon=0.03, run_seed=0)
        assert torch.equal(found.images * ~allowed, batch.images * ~allowed), name


def test_the_background_of_an_oracle_on_a_constant_fill_is_out_of_reach_to_the_bit(
    make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(MaskSource.ORACLE)
    batch = batch_of(system, make_batch, 4)
    suite = AttackSuite(
        threat=ThreatModel(epsilons=(1.0,), region=Region.BACKGROUND),
        attacks={"apgd": ClassAttack(num_steps=5), "square": SquareAttack(num_queries=5)},
    )
    result = run_all(suite, batch)[0]
    assert not result.misclassified.any()
    assert torch.equal(result.margins, verdict(system, batch.images, batch.labels, batch.context).margins)


def test_a_region_without_masks_is_refused(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.NONE), make_batch, 1)
    bare = AttackBatch(system=batch.system, images=batch.images, labels=batch.labels, context=None, seeds=batch.seeds)
    with pytest.raises(ValueError, match="the region 'background' needs oracle masks"):
        run_attack("apgd", ClassAttack(), bare, threat=ThreatModel(region=Region.BACKGROUND), epsilon=0.1, run_seed=0)


def test_a_suite_that_does_not_apply_is_an_error_and_not_robustness(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.ORACLE), make_batch, 1)
    suite = AttackSuite(attacks={"collapse": MaskAttack(goal=MaskGoal.COLLAPSE)})
    with pytest.raises(
        ConfigError, match=r"none applies to this system.*collapse: the attacker cannot move the mask of the source oracle"
    ):
        run_all(suite, batch)


class Liar(nn.Module):
    """A copy of a system that sees a success in every image."""

    mask_traits = MaskTraits()

    def __init__(self, system: TwoStage) -> None:
        super().__init__()
        self.system = system

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        logits: Tensor = self.system(images, context)
        return logits.scatter_add(1, logits.argmax(dim=1, keepdim=True), torch.full((len(logits), 1), -1e6, dtype=logits.dtype))

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return self.system.masks(images, context)


@pytest.mark.parametrize("search", ["pgd", "apgd"])
def test_a_success_that_only_the_copy_sees_neither_counts_nor_ends_the_search(
    search: str, make_system: Make, make_batch: MakeBatch
) -> None:
    batch = batch_of(make_system(MaskSource.NONE), make_batch, 12)
    spec = ClassAttack(search=search, loss=ClassLoss.CROSS_ENTROPY, num_steps=4, restarts=3)  # type: ignore[arg-type]

    def found(copy: nn.Module | None, epsilon: float) -> AttackResult:
        return run_attack(
            "pgd",
            spec,
            batch,
            threat=ThreatModel(),
            epsilon=epsilon,
            run_seed=0,
            batch_size=5,
            copy=copy,  # type: ignore[arg-type]
        )

    lied_to = found(Liar(batch.system), 0.05)  # type: ignore[arg-type]
    own = verdict(batch.system, lied_to.images, batch.labels, batch.context)
    assert torch.equal(own.misclassified, lied_to.misclassified)
    assert not torch.equal(lied_to.images, batch.images)
    if search == "pgd":  # every start goes on to its end, where the first misclassified point of the copy would have ended it
        asked: list[int] = []
        liar = Liar(batch.system)  # type: ignore[arg-type]
        liar.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
        assert not found(liar, 1e-6).misclassified.any()
        assert sum(asked) == 12 * (1 + 3 * 5)


def test_a_warm_start_is_one_more_start_tried_first(make_system: Make, make_batch: MakeBatch) -> None:
    """Against descent from it and descent from the random start, each run alone."""
    batch = batch_of(make_system(MaskSource.LEARNED), make_batch, 16)
    spec, threat = ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=2), ThreatModel(norm="l2")
    smaller = run_attack("pgd", replace(spec, num_steps=9), batch, threat=threat, epsilon=0.02, run_seed=0)
    with_start = run_attack("pgd", spec, batch, threat=threat, epsilon=0.04, run_seed=0, warm_start=smaller.images)
    without = run_attack("pgd", spec, batch, threat=threat, epsilon=0.04, run_seed=0)
    objective = ModelObjective(model=batch.system, score=margin, targets=(batch.labels,), context=batch.context)
    from_there = objective(pgd_l2(objective, batch.images, epsilon=0.04, num_steps=2, start=smaller.images))
    robust = ~with_start.misclassified  # the others left at their first success
    torch.testing.assert_close(with_start.margins[robust], torch.maximum(from_there, without.margins)[robust], rtol=0, atol=1e-4)
    assert (with_start.margins > without.margins + 1e-4)[robust].any()


def test_run_to_their_end_all_starts_have_a_say_and_the_largest_margin_is_kept(make_system: Make, make_batch: MakeBatch) -> None:
    batch = batch_of(make_system(MaskSource.LEARNED), make_batch, 12)
    spec = ClassAttack(loss=ClassLoss.CROSS_ENTROPY, num_steps=3, restarts=4)
    common = {"threat": ThreatModel(), "epsilon": 0.01, "run_seed": 0, "stop_at_success": False}
    kept = run_attack("apgd", spec, batch, **common)  # type: ignore[arg-type]
    start = AttackStart(batch=batch, threat=ThreatModel(), epsilon=0.01, number=0, num_classes=5, run_seed=0, name="apgd")
    alone = [run_start(spec, replace(start, number=number), batch.system).margins for number in range(4)]
    clean = verdict(batch.system, batch.images, batch.labels, batch.context).margins
    torch.testing.assert_close(kept.margins, torch.stack([clean, *alone]).amax(dim=0))
    assert (torch.stack(alone).argmax(dim=0) != 3).any(), "the last start has to be not the best one somewhere"
    assert kept.misclassified.any()


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        (MaskAttack(goal=MaskGoal.STEAL), {"has_guides": False}, "no guide masks"),
        (GuidedAttack(goal=MaskGoal.INVERT_ORACLE), {"has_oracle": False}, "no oracle masks"),
        (SquareAttack(), {"image_shape": (24, 24)}, "do not fit"),
        (AutoAttack(), {"image_shape": (24, 24)}, "leave square out"),
        (AutoAttack(attacks=("apgd-ce",)), {"image_shape": (24, 24)}, None),
        (ClassAttack(), {}, None),
    ],
)
def test_reasons_to_skip_are_named(spec: AttackSpec, changes: Mapping[str, object], reason: str | None) -> None:
    conditions = {"image_shape": (64, 64), "has_guides": True, "has_oracle": True, **changes}
    traits, threat = MaskTraits(source="learned", follows_image=True), ThreatModel(norm="l2")
    said = spec.inapplicable(Conditions(traits=traits, threat=threat, **conditions))  # type: ignore[arg-type]
    assert (said is None) if reason is None else (said is not None and reason in said)


def test_passes_are_counted_by_the_attack_itself() -> None:
    assert ClassAttack(num_steps=7, restarts=2, num_targets=3).passes(9) == (42, 42)
    assert MaskAttack(goal=MaskGoal.FLOOD, num_steps=7, restarts=2).passes(9) == (14, 14)
    assert GuidedAttack(goal=MaskGoal.FLOOD, mask_steps=3, class_steps=4, restarts=2).passes(9) == (14, 14)
    assert SquareAttack(num_queries=9, restarts=2).passes(9) == (18, 0)
    assert AutoAttack(attacks=("apgd-ce", "square"), num_queries=9).passes(9) == (109, 100)


def test_starts_are_restarts_times_targets_and_targets_are_clamped() -> None:
    assert ClassAttack(restarts=3).num_starts(43) == 3
    assert ClassAttack(restarts=3, num_targets=9).num_starts(43) == 27
    assert ClassAttack(restarts=3, num_targets=9).num_starts(5) == 12
    assert AutoAttack().num_starts(5) == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_survive_a_round_trip(path: Path) -> None:
    required = ["prepared=p", "run=r", "classifier_run=c"]
    suite = load_config("evaluate", EvaluateConfig, [f"attack={path.stem}", *required]).attack
    assert 8 / 255 in suite.threat.epsilons or suite.threat.norm == "l1" or suite.measurements
    assert validate(AttackSuite, to_plain(suite)) == suite


@pytest.mark.parametrize("path", ["fast", "standard", "autoattack"])
@pytest.mark.parametrize("source", list(MaskSource))
def test_shipped_suites_attack_every_arm(path: str, source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    plain = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{path}.yaml"))
    assert isinstance(plain, dict)
    suite = validate(AttackSuite, {str(key): value for key, value in plain.items()})
    skipped = skipped_attacks(suite, batch_of(make_system(source), make_batch, 1))
    gradient = [name for name, spec in suite.attacks.items() if isinstance(spec, ClassAttack | AutoAttack) and name not in skipped]
    assert gradient


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attacks": {}}, "attacks"),
        ({"attacks": {"a": {"kind": "fgsm"}}}, "attacks.a: 'fgsm' is not one of"),
        ({"attacks": {"a": {"kind": "mask"}}}, "attacks.a.goal: missing"),
        ({"attacks": {"a": {"kind": "class", "num_step": 3}}}, "attacks.a.num_step: unknown key"),
        ({"attacks": {"a": {"kind": "class"}}, "threat": {"epsilons": ["8/255", "4/255"]}}, "threat: epsilons have to rise"),
        ({"attacks": {"a": {"kind": "class"}}, "threat": {"epsilons": [-1]}}, "threat.epsilons.0"),
    ],
)
def test_mistakes_in_a_suite_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(AttackSuite, values)


class Rooted(TwoStage):
    """Its logits are numbers and their gradients are none, as below the root of what is 0."""

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().classify(images, masks, context) + (images - images).sum(dim=(1, 2, 3)).abs().sqrt()[:, None]


BLIND: dict[str, AttackSpec] = {
    **{name: KINDS[name] for name in ("pgd", "apgd-margin", "apgd-targeted", "path-balanced", "joint-flood", "guided-flood")},
    **{name: AutoAttack(attacks=(name,)) for name in ("apgd-ce", "apgd-t", "fab-t")},
    "patch": PatchAttack(num_steps=2),
}


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_system_whose_gradients_are_no_numbers_is_an_error_and_not_robust(
    name: str, norm: str, make_system: Make, make_batch: MakeBatch
) -> None:
    batch = batch_of(make_system(MaskSource.LEARNED), make_batch)
    batch.system.__class__ = Rooted
    spec, epsilon = BLIND[name], 0.1
    threat = ThreatModel(norm="patch" if name == "patch" else norm, epsilons=(epsilon,))  # type: ignore[arg-type]
    for stop_at_success in (True, False):
        named = "0" if isinstance(spec, AutoAttack) else "0, 1, 2, 3"  # that one takes one after the other
        with pytest.raises(FloatingPointError, match=rf"^a NaN score or gradient for these images of the batch: {named}$"):
            run_attack(name, spec, batch, threat=threat, epsilon=epsilon, run_seed=0, stop_at_success=stop_at_success)
