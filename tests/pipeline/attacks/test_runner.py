"""Suites: every attack on every system, worst cases against single attacks, and verdicts that do not depend on the batch."""

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from pipeline.attacks.attempt import Victims
from pipeline.attacks.objectives import ClassLoss
from pipeline.attacks.regions import Region, region_masks
from pipeline.attacks.runner import SuiteFound, num_starts, run_attack, run_suite, skipped_attacks
from pipeline.attacks.specs import (
    AttackSpec,
    AttackSuite,
    AutoAttack,
    ClassAttack,
    GuidedAttack,
    Knowledge,
    MaskAttack,
    SquareAttack,
    ThreatModel,
    inapplicable,
)
from pipeline.attacks.tracker import fallen, verdict
from pipeline.attacks.two_stage import GradientPath, GuideMasks, MaskGoal
from pipeline.config import to_plain, validate
from pipeline.errors import ConfigError
from pipeline.masks.config import Fill, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import MaskTraits, TwoStage

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


def victims_of(system: TwoStage, make_batch: MakeBatch, size: int = 4) -> Victims:
    images, labels, context = make_batch(system, size)
    assert context.sample_seeds is not None
    pool = (torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    guides = GuideMasks(pool, torch.arange(6) % 5)
    return Victims(system=system, images=images, labels=labels, context=context, seeds=context.sample_seeds, guides=guides)


def run_all(suite: AttackSuite, victims: Victims, run_seed: int = 0) -> list[SuiteFound]:
    return list(run_suite(suite, victims, run_seed=run_seed))


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
    victims = victims_of(system, make_batch, 1)
    epsilon = {"linf": 0.002, "l2": 0.05}[norm]
    threat = ThreatModel(norm=norm, epsilons=(epsilon,), knowledge=knowledge, num_draws=2)  # type: ignore[arg-type]
    skipped = skipped_attacks(AttackSuite(threat=threat, attacks=KINDS), victims)
    for name, spec in KINDS.items():
        if name in skipped:
            continue
        found = run_attack(name, spec, victims, threat=threat, epsilon=epsilon, run_seed=0)
        delta = found.images.double() - victims.images.double()
        length = delta.abs().max() if norm == "linf" else delta.norm()
        assert length <= epsilon
        scored = verdict(system, found.images, victims.labels, victims.context)
        assert torch.equal(scored.fallen, found.fallen)
        torch.testing.assert_close(scored.margins, found.margins)
        # pyautoattack gives back the image where it found nothing, a mask may go its way without hurting the class, and what is
        # best on average may be worse for the true seed.
        if name not in ("square", "autoattack") and not name.startswith("mask") and knowledge is Knowledge.WHITE_BOX:
            assert length > 0, "an attack that does not move is no attack"
            assert found.margins > verdict(system, victims.images, victims.labels, victims.context).margins
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
    assert run_all(suite, victims_of(make_system(source), make_batch, 8))[0].found.fallen.all()


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
    victims = victims_of(system, make_batch, len(kinds))
    generator = torch.Generator().manual_seed(seed)
    every = {"zeros": torch.zeros(1, 16, 16), "ones": torch.ones(1, 16, 16), "random": torch.rand(1, 16, 16, generator=generator)}
    assert victims.context is not None
    context = victims.context._replace(oracle_masks=torch.stack([every[kind] for kind in kinds]))
    victims = Victims(
        system=system,
        images=victims.images,
        labels=system(victims.images, context).argmax(1),
        context=context,
        seeds=victims.seeds,
        guides=GuideMasks(torch.stack([every["zeros"], every["ones"], every["random"]]), torch.tensor([0, 1, 2])),
    )
    threat = ThreatModel(epsilons=(0.02,))
    for result in run_all(AttackSuite(threat=threat, attacks=KINDS), victims):
        assert ((result.found.images.double() - victims.images.double()).abs() <= 0.02).all()
        again = fallen(system, result.found.images, victims.labels, context)
        assert torch.equal(again, result.found.fallen)


def test_the_worst_case_is_the_union_of_the_attacks_run_alone(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.LEARNED), make_batch, 16)
    threat = ThreatModel(epsilons=(0.006,))
    attacks: dict[str, AttackSpec] = {
        "weak": ClassAttack(search="pgd", num_steps=1),
        "collapse": MaskAttack(goal=MaskGoal.COLLAPSE, num_steps=5),
        "strong": ClassAttack(loss=ClassLoss.MARGIN, num_steps=10),
    }
    alone = {name: run_attack(name, spec, victims, threat=threat, epsilon=0.006, run_seed=3) for name, spec in attacks.items()}
    result = run_all(AttackSuite(threat=threat, attacks=attacks), victims, run_seed=3)[0]
    union = torch.stack([found.fallen for found in alone.values()]).any(0)
    assert torch.equal(result.found.fallen, union)
    assert 0 < union.sum() < 16, "the comparison needs images of both kinds"
    for row in range(16):
        first = next((name for name, found in alone.items() if found.fallen[row]), None)
        assert result.fallen_to[row] == first
        if first is not None:
            torch.testing.assert_close(result.found.images[row], alone[first].images[row], rtol=0, atol=1e-6)
        else:
            best = max(float(found.margins[row]) for found in alone.values())
            assert math.isclose(float(result.found.margins[row]), best, rel_tol=1e-3, abs_tol=1e-4)


@pytest.mark.parametrize("source", [MaskSource.ORACLE, MaskSource.LEARNED_HARD, MaskSource.RANDOM])
def test_the_verdict_of_an_image_does_not_depend_on_its_batch(source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(source, dtype=torch.float64)
    images, labels, context = make_batch(system, 6, dtype=torch.float64)
    assert context.sample_seeds is not None
    victims = Victims(system=system, images=images, labels=labels, context=context, seeds=context.sample_seeds)
    attacks: dict[str, AttackSpec] = {
        "apgd": ClassAttack(num_steps=4, restarts=2),
        "targeted": ClassAttack(loss=ClassLoss.MARGIN, search="pgd", num_targets=2, num_steps=3),
        "square": SquareAttack(num_queries=10, restarts=2),
    }
    suite = AttackSuite(threat=ThreatModel(epsilons=(0.003, 0.008)), attacks=attacks)
    together = run_all(suite, victims)
    order = torch.tensor([4, 0, 3])
    for few, all_of_them in zip(run_all(suite, victims.select(order)), together, strict=True):
        torch.testing.assert_close(few.found.images, all_of_them.found.images[order], rtol=0, atol=1e-9)
        assert torch.equal(few.found.fallen, all_of_them.found.fallen[order])
        assert few.fallen_to == tuple(all_of_them.fallen_to[row] for row in order)


def test_seeds_come_from_the_run_the_image_the_name_and_the_start(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.NONE), make_batch, 2)
    spec = ClassAttack(search="pgd", num_steps=4)
    threat = ThreatModel(norm="l2")

    def found(name: str, run_seed: int) -> Tensor:
        return run_attack(name, spec, victims, threat=threat, epsilon=0.01, run_seed=run_seed).images

    assert torch.equal(found("a", 0), found("a", 0))
    assert not torch.equal(found("a", 0), found("a", 1))
    assert not torch.equal(found("a", 0), found("b", 0))


def test_a_curve_never_rises_and_a_fallen_image_keeps_its_first_adversarial_image(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.LEARNED), make_batch, 16)
    suite = AttackSuite(
        threat=ThreatModel(epsilons=(0.0, 0.002, 0.008, 0.02)),
        attacks={"apgd": ClassAttack(num_steps=3), "square": SquareAttack(num_queries=3)},
    )
    results = run_all(suite, victims)
    assert not results[0].found.fallen.any()
    assert torch.equal(results[0].found.images, victims.images)
    for before, after in itertools.pairwise(results):
        assert (after.found.fallen | ~before.found.fallen).all()
        kept = before.found.fallen
        assert torch.equal(after.found.images[kept], before.found.images[kept])
        assert (after.found.margins >= before.found.margins).all()
    assert 0 < results[1].found.fallen.sum() < results[-1].found.fallen.sum()


def test_what_is_misclassified_as_it_is_needs_no_attack(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(), make_batch, 3)
    wrong = Victims(
        system=victims.system, images=victims.images, labels=(victims.labels + 1) % 5, context=victims.context, seeds=victims.seeds
    )
    result = run_all(AttackSuite(attacks={"apgd": ClassAttack()}), wrong)[0]
    assert result.fallen_to == ("clean",) * 3
    assert torch.equal(result.found.images, victims.images)


@pytest.mark.parametrize("region", [Region.FOREGROUND, Region.BACKGROUND, Region.BOUNDARY, Region.OUTSIDE_BOX])
def test_every_attack_stays_in_the_region(region: Region, make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.LEARNED_HARD), make_batch, 2)
    threat = ThreatModel(epsilons=(0.03,), region=region)
    assert victims.context is not None
    assert victims.context.oracle_masks is not None
    allowed = region_masks(region, victims.context.oracle_masks, radius=threat.region_radius)
    for name, spec in KINDS.items():
        found = run_attack(name, spec, victims, threat=threat, epsilon=0.03, run_seed=0)
        assert torch.equal(found.images * ~allowed, victims.images * ~allowed), name


def test_the_background_of_an_oracle_on_a_constant_fill_is_out_of_reach_to_the_bit(
    make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(MaskSource.ORACLE)
    victims = victims_of(system, make_batch, 4)
    suite = AttackSuite(
        threat=ThreatModel(epsilons=(1.0,), region=Region.BACKGROUND),
        attacks={"apgd": ClassAttack(num_steps=5), "square": SquareAttack(num_queries=5)},
    )
    result = run_all(suite, victims)[0]
    assert not result.found.fallen.any()
    assert torch.equal(result.found.margins, verdict(system, victims.images, victims.labels, victims.context).margins)


def test_a_region_without_masks_is_refused(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.NONE), make_batch, 1)
    bare = Victims(system=victims.system, images=victims.images, labels=victims.labels, context=None, seeds=victims.seeds)
    with pytest.raises(ValueError, match="the region 'background' needs oracle masks"):
        run_attack("apgd", ClassAttack(), bare, threat=ThreatModel(region=Region.BACKGROUND), epsilon=0.1, run_seed=0)


def test_a_suite_that_does_not_apply_is_an_error_and_not_robustness(make_system: Make, make_batch: MakeBatch) -> None:
    victims = victims_of(make_system(MaskSource.ORACLE), make_batch, 1)
    suite = AttackSuite(attacks={"collapse": MaskAttack(goal=MaskGoal.COLLAPSE)})
    with pytest.raises(
        ConfigError, match=r"none applies to this system.*collapse: the attacker cannot move the mask of the source oracle"
    ):
        run_all(suite, victims)


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
    said = inapplicable(spec, MaskTraits(source="learned", follows_image=True), ThreatModel(norm="l2"), **conditions)  # type: ignore[arg-type]
    assert (said is None) if reason is None else (said is not None and reason in said)


def test_starts_are_restarts_times_targets_and_targets_are_clamped() -> None:
    assert num_starts(ClassAttack(restarts=3), 43) == 3
    assert num_starts(ClassAttack(restarts=3, num_targets=9), 43) == 27
    assert num_starts(ClassAttack(restarts=3, num_targets=9), 5) == 12
    assert num_starts(AutoAttack(), 5) == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid_and_survive_a_round_trip(path: Path) -> None:
    plain = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(plain, dict)
    suite = validate(AttackSuite, {str(key): value for key, value in plain.items()})
    assert 8 / 255 in suite.threat.epsilons
    assert validate(AttackSuite, to_plain(suite)) == suite


@pytest.mark.parametrize("path", ["fast", "standard", "autoattack"])
@pytest.mark.parametrize("source", list(MaskSource))
def test_shipped_suites_attack_every_arm(path: str, source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    plain = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{path}.yaml"))
    assert isinstance(plain, dict)
    suite = validate(AttackSuite, {str(key): value for key, value in plain.items()})
    skipped = skipped_attacks(suite, victims_of(make_system(source), make_batch, 1))
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
