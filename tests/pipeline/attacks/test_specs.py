"""What can be set of attacks and measurements: defaults and limits by a table, costs by counting, and what their figures claim."""

import dataclasses
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import pipeline.attacks
import pipeline.masks
from pipeline.attacks.acceleration import attacked_copy, copy_to_search
from pipeline.attacks.apgd import apgd
from pipeline.attacks.autoattack import autoattack, square
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.hop_skip_jump import hop_skip_jump
from pipeline.attacks.measurement import Claim, Measurement
from pipeline.attacks.measurements import (
    Backdrop,
    Backgrounds,
    Corruption,
    Corruptions,
    DecisionBased,
    MinimumNorm,
    Patches,
    Smoothing,
)
from pipeline.attacks.minimum_norm import ddn, fmn
from pipeline.attacks.objectives import class_score
from pipeline.attacks.outside import AutoAttack, SquareAttack, square_fits
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.pgd import pgd, pgd_in
from pipeline.attacks.runner import run_attack
from pipeline.attacks.smoothing import SmoothedObjective, certify, predict
from pipeline.attacks.specs import AttackSpec, ClassAttack, Conditions, GuidedAttack, MaskAttack
from pipeline.attacks.streaming import streamed_pgd
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.errors import ConfigError
from pipeline.evaluation import clusters, statistics
from pipeline.masks.config import MaskConfig
from pipeline.masks.traits import MaskTraits

TINY = 1e-9
COUNT = (1, 1_000_000)  # fewest and most that may be asked for
RESTARTS = (1, 1000)
LIMITS: list[tuple[type, str, Any, tuple[Any, Any], tuple[Any, Any]]] = [
    # class, field, default, the smallest and the largest value that is taken, values below and above that are refused
    (PgdConfig, "epsilon", 8 / 255, (0, 1), (-TINY, 1 + TINY)),
    (PgdConfig, "step_size", None, (TINY, 10_000), (0, 10_000.1)),
    (PgdConfig, "num_steps", 10, COUNT, (0, 1_000_001)),
    (PgdConfig, "restarts", 1, RESTARTS, (0, 1001)),
    (ThreatModel, "epsilons", (8 / 255,), ((0,), (1,)), ((-TINY,), (1 + TINY,))),
    (ThreatModel, "region_radius", 2, (1, 1024), (0, 1025)),
    (ThreatModel, "num_draws", 8, (1, 10_000), (0, 10_001)),
    (ClassAttack, "num_targets", 0, (0, 10_000), (-1, 10_001)),
    (ClassAttack, "num_steps", 100, COUNT, (0, 1_000_001)),
    (ClassAttack, "restarts", 1, RESTARTS, (0, 1001)),
    (MaskAttack, "weight", 1.0, (TINY, 1e6), (0, 1e6 + 0.5)),
    (MaskAttack, "num_steps", 100, COUNT, (0, 1_000_001)),
    (MaskAttack, "restarts", 1, RESTARTS, (0, 1001)),
    (GuidedAttack, "mask_steps", 50, COUNT, (0, 1_000_001)),
    (GuidedAttack, "class_steps", 50, COUNT, (0, 1_000_001)),
    (GuidedAttack, "restarts", 1, RESTARTS, (0, 1001)),
    (SquareAttack, "num_queries", 5000, COUNT, (0, 1_000_001)),
    (SquareAttack, "restarts", 1, RESTARTS, (0, 1001)),
    (AutoAttack, "num_queries", 5000, COUNT, (0, 1_000_001)),
    (AutoAttack, "attacks", ("apgd-ce", "apgd-t", "fab-t", "square"), (("fab",), ("apgd-dlr",)), ((), ("pgd",))),
    (PatchAttack, "num_promising", 4, (0, 1000), (-1, 1001)),
    (PatchAttack, "num_random", 4, (0, 1000), (-1, 1001)),
    (PatchAttack, "num_steps", 50, COUNT, (0, 1_000_001)),
    (MinimumNorm, "num_steps", 100, COUNT, (0, 1_000_001)),
    (MinimumNorm, "epsilons", (), ((), (1,)), ((-TINY,), (1 + TINY,))),
    (MinimumNorm, "region_radius", 2, (1, 1024), (0, 1025)),
    (DecisionBased, "num_steps", 20, COUNT, (0, 1_000_001)),
    (DecisionBased, "max_probes", 500, COUNT, (0, 1_000_001)),
    (DecisionBased, "epsilons", (), ((), (10_000,)), ((-TINY,), (10_000.1,))),  # Euclidean
    (DecisionBased, "region_radius", 2, (1, 1024), (0, 1025)),
    (Patches, "shares", (0.02, 0.05), ((TINY,), (1,)), ((0,), (1 + TINY,))),
    (
        Patches,
        "regions",
        (Region.EVERYWHERE, Region.FOREGROUND, Region.BACKGROUND),
        (("outside-box",), tuple(Region)),
        ((), ("x",)),
    ),
    (Corruptions, "severities", (1, 2, 3, 4, 5), ((1,), (5,)), ((0,), (6,))),
    (Corruptions, "corruptions", tuple(Corruption), (("fog",), tuple(Corruption)), ((), ("rain",))),
    (Backgrounds, "backdrops", tuple(Backdrop), (("same-class",), tuple(Backdrop)), ((), ("sky",))),
    (Smoothing, "sigma", 0.25, (TINY, 1000), (0, 1000.1)),
    (Smoothing, "num_selection", 100, COUNT, (0, 1_000_001)),
    (Smoothing, "num_draws", 1000, COUNT, (0, 1_000_001)),
    (Smoothing, "error_rate", 0.001, (TINY, 0.4999), (0, 0.5)),
    (Smoothing, "radii", (0.25, 0.5, 1.0), ((TINY,), (10_000,)), ((0,), (10_000.1,))),
    (Smoothing, "num_steps", 20, COUNT, (0, 1_000_001)),
    (Smoothing, "attack_draws", 8, COUNT, (0, 1_000_001)),
    (MaskConfig, "radius", 2, (1, 1024), (0, 1025)),
    (MaskConfig, "shift", 4, (1, 1024), (0, 1025)),
    (MaskConfig, "threshold", 0.5, (TINY, 1 - TINY), (0, 1)),
    (MaskConfig, "blur_sigma", 4.0, (TINY, 64), (0, 64.1)),
]
NEEDED: dict[type, dict[str, Any]] = {MaskAttack: {"goal": "flood"}, GuidedAttack: {"goal": "flood"}}
CHOICES: list[tuple[type, str, Any]] = [
    (PgdConfig, "norm", "linf"),
    (PgdConfig, "random_start", True),
    (ThreatModel, "norm", "linf"),
    (ThreatModel, "region", "everywhere"),
    (ThreatModel, "knowledge", "white-box"),
    (ClassAttack, "search", "apgd"),
    (ClassAttack, "loss", "cross-entropy"),
    (ClassAttack, "path", "both"),
    (ClassAttack, "gate", "own"),
    (MaskAttack, "search", "apgd"),
    (MaskAttack, "loss", None),
    (GuidedAttack, "loss", "margin"),
    (PatchAttack, "loss", "margin"),
    (MinimumNorm, "search", "fmn"),
    (MinimumNorm, "norm", "linf"),
    (MinimumNorm, "region", "everywhere"),
    (DecisionBased, "norm", "l2"),
    (DecisionBased, "region", "everywhere"),
    (Patches, "attack", PatchAttack()),
    (MaskConfig, "source", "learned"),
    (MaskConfig, "fill", "grey"),
    (MaskConfig, "direction", "right"),
    (MaskConfig, "surrogate", "sigmoid"),
]


def test_every_field_of_every_attack_and_measurement_is_in_one_of_the_tables() -> None:
    listed = {(one, name) for one, name, *_ in [*LIMITS, *CHOICES]}
    for config in {one for one, *_ in LIMITS}:
        fields = {field.name for field in dataclasses.fields(config)} - {"kind", *NEEDED.get(config, {})}
        assert fields == {name for one, name in listed if one is config}, config


@pytest.mark.parametrize(("config", "name", "default", "taken", "refused"), LIMITS)
def test_a_field_has_its_default_takes_its_limits_and_refuses_what_lies_beyond(
    config: type, name: str, default: Any, taken: tuple[Any, Any], refused: tuple[Any, Any]
) -> None:
    needed = NEEDED.get(config, {})
    assert getattr(config(**needed), name) == default
    for value in taken:
        assert getattr(config(**needed, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(ConfigError, match=rf"^{config.__name__}: .*"):
            config(**needed, **{name: value})


@pytest.mark.parametrize(("config", "name", "default"), CHOICES)
def test_a_choice_has_its_default(config: type, name: str, default: Any) -> None:
    assert getattr(config(**NEEDED.get(config, {})), name) == default


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (
            pgd_in,
            {
                "step_size": None,
                "restarts": 1,
                "random_start": True,
                "region": None,
                "start": None,
                "keep_best": True,
                "seeds": None,
            },
        ),
        (pgd, {"region": None, "start": None, "keep_best": True, "seeds": None}),
        (apgd, {"region": None, "start": None, "seeds": None, "explored": None}),
        (streamed_pgd, {"warm_start": None}),
        (fmn, {"num_steps": 100, "step_size": 1.0, "region": None}),
        (ddn, {"num_steps": 100, "first_radius": 1.0, "region": None}),
        (hop_skip_jump, {"num_steps": 20, "max_probes": 1000, "num_starts": 100, "region": None}),
        (certify, {"num_selection": 100, "num_draws": 1000, "error_rate": 0.001}),
        (predict, {"num_draws": 1000, "error_rate": 0.001}),
        (autoattack, {"attacks": ("apgd-ce", "apgd-t", "fab-t", "square"), "num_queries": 5000, "region": None}),
        (square, {"num_queries": 5000, "region": None, "watch": None}),
        (class_score, {"targeted": False}),
        (run_attack, {"batch_size": None, "stop_at_success": True, "warm_start": None, "copy": None, "observer": None}),
        (attacked_copy, {"precision": "float32"}),
        (copy_to_search, {"context": None, "precision": "float32"}),
        (verdict, {"with_masks": False}),
        (statistics.smallest_detectable_difference, {"level": pytest.approx(0.05), "power": 0.8}),
        (statistics.PairedComparison.detectable, {"level": pytest.approx(0.05), "power": 0.8}),
        (SmoothedObjective, {"num_draws": 16}),
        (SystemObjective, {"target_labels": None, "soft": False, "mask_targets": None, "mask_weight": 1.0, "path": "both"}),
    ],
)
def test_what_is_left_out_of_a_call_has_the_value_that_its_docstring_says(function: Any, defaults: dict[str, Any]) -> None:
    found = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    assert {name: found[name] for name in defaults} == defaults
    if inspect.isfunction(function):
        assert {name for name, default in found.items() if default is not inspect.Parameter.empty} == set(defaults)


def modules() -> list[ModuleType]:
    packages = (pipeline.attacks, pipeline.masks)
    names = [found.name for one in packages for found in pkgutil.walk_packages(one.__path__, f"{one.__name__}.")]
    return [*map(importlib.import_module, names), clusters, statistics]


def test_what_holds_values_is_frozen_and_takes_them_by_name() -> None:
    found = {value for module in modules() for value in vars(module).values() if inspect.isclass(value)}
    found = {one for one in found if dataclasses.is_dataclass(one) and one.__module__.startswith("pipeline.")}
    assert len(found) > 30
    for one in found:
        parameters = one.__dataclass_params__  # type: ignore[attr-defined]
        assert parameters.frozen, one
        assert all(field.kw_only for field in dataclasses.fields(one)), one


def test_what_is_refused_for_two_fields_together_says_why() -> None:
    assert PgdConfig(restarts=1, random_start=False).restarts == 1
    with pytest.raises(ConfigError, match="every restart would repeat the first"):
        PgdConfig(restarts=2, random_start=False)
    assert MinimumNorm(search="ddn", norm="l2", epsilons=(2.0,)).epsilons == (2.0,)
    with pytest.raises(ConfigError, match="ddn knows the norm l2 alone, not linf"):
        MinimumNorm(search="ddn")
    assert PatchAttack(num_promising=0, num_random=1).num_starts(9) == PatchAttack(num_promising=1, num_random=0).num_starts(9) == 1
    with pytest.raises(ConfigError, match="there is no place to try"):
        PatchAttack(num_promising=0, num_random=0)
    assert ThreatModel(norm="l2", epsilons=(0, 0.5, 2.0)).epsilons == (0, 0.5, 2.0)
    assert ThreatModel(norm="patch", epsilons=(1,)).epsilons == (1,)
    with pytest.raises(ConfigError, match=r"0\.05, never 5"):
        ThreatModel(norm="patch", epsilons=(1 + TINY,))
    for falling in ((0.1, 0.1), (0.2, 0.1), (0.1, 0.3, 0.2)):
        with pytest.raises(ConfigError, match="epsilons have to rise"):
            ThreatModel(epsilons=falling)


def test_a_measurement_counts_the_passes_of_all_its_conditions() -> None:
    assert MinimumNorm(num_steps=7).passes(9) == (9, 7)  # a pass for every step, the last point, the answer to what was found
    probes = [100, 141, 150]  # 100 * sqrt(step), at most max_probes
    assert DecisionBased(num_steps=3, max_probes=150).passes(9) == (sum(probes) + 3 * 36, 0)
    attack = PatchAttack(num_promising=2, num_random=3, num_steps=5)
    assert attack.passes(9) == (2 + 25, 2 + 25)  # the gradient that promises, and every step of every place
    assert Patches(shares=(0.1, 0.2), regions=("everywhere",), attack=attack).passes(9) == (2 * 28, 2 * 27)
    assert Corruptions(corruptions=("fog", "snow"), severities=(1, 5)).passes(9) == (5, 0)
    assert Backgrounds(backdrops=("same-class",)).passes(9) == (2, 0)
    smoothing = Smoothing(num_selection=3, num_draws=10, radii=(1, 2), num_steps=5, attack_draws=4)
    assert smoothing.passes(9) == (3 + 3 * 10 + 2 * 5 * 4, 2 * 5 * 4)


@pytest.mark.parametrize(
    ("measurement", "threat", "claims"),
    [
        (MinimumNorm(search="ddn", norm="l2"), "l2", {("nearest", 0.0): Claim.UPPER_ESTIMATE}),
        (DecisionBased(norm="linf"), "linf", {("nearest", 0.0): Claim.UPPER_ESTIMATE}),
        (
            Patches(shares=(0.2, 0.1), regions=("background", "everywhere")),
            "patch",
            {(region, share): Claim.UPPER_ESTIMATE for region in ("background", "everywhere") for share in (0.1, 0.2)},
        ),
        (
            Corruptions(corruptions=("fog",), severities=(5, 2)),
            "corruption",
            {("clean", 0.0): Claim.ACCURACY, ("fog", 5.0): Claim.ACCURACY, ("fog", 2.0): Claim.ACCURACY},
        ),
        (
            Backgrounds(backdrops=("other-class",)),
            "background",
            {("original", 0.0): Claim.ACCURACY, ("other-class", 0.0): Claim.ACCURACY},
        ),
        (
            Smoothing(sigma=0.5, radii=(1.0,)),
            "l2",
            {("certified", 0.5): Claim.LOWER_BOUND, ("attacked", 1.0): Claim.UPPER_ESTIMATE},
        ),
    ],
)
def test_a_measurement_names_its_conditions_in_order_and_what_their_figures_claim(
    measurement: Measurement, threat: str, claims: dict[tuple[str, float], Claim]
) -> None:
    assert measurement.threat == threat
    assert [((one.name, one.level), one.claim) for one in measurement.conditions()] == list(claims.items())


def test_only_backgrounds_of_other_images_need_a_donor() -> None:
    assert [one for one in Backdrop if one.needs_donor] == [Backdrop.SAME_CLASS, Backdrop.OTHER_CLASS]


def conditions(*, threat: ThreatModel, traits: MaskTraits, side: int = 64) -> Conditions:
    return Conditions(traits=traits, threat=threat, image_shape=(side, side), has_guides=False, has_oracle=False)


LEARNED = MaskTraits(source="learned", follows_image=True)
HARD = MaskTraits(source="learned-hard", follows_image=True, hard_threshold=0.5)
OPAQUE = MaskTraits(source="theirs", follows_image=True, has_logits=False)
RANDOM = MaskTraits(source="random", uses_seeds=True)
HIDDEN = ThreatModel(knowledge="hidden-seed")


@pytest.mark.parametrize(
    ("spec", "traits", "threat", "side", "reason"),
    [
        (ClassAttack(gate="soft"), HARD, ThreatModel(), 64, None),
        (ClassAttack(gate="soft"), LEARNED, ThreatModel(), 64, "the mask source learned has no hard gate to transfer to"),
        (ClassAttack(path="mask"), HARD, ThreatModel(), 64, None),
        (ClassAttack(path="mask"), MaskTraits(), ThreatModel(), 64, "the attacker cannot move the mask of the source none"),
        (ClassAttack(path="pixels"), OPAQUE, ThreatModel(), 64, "the system does not give the logits of its mask theirs"),
        (ClassAttack(), OPAQUE, ThreatModel(), 64, None),
        (ClassAttack(), RANDOM, HIDDEN, 64, None),
        (ClassAttack(), LEARNED, ThreatModel(norm="patch"), 64, "it keeps to linf, l2 and l1, and the threat is patch"),
        (MaskAttack(goal="flood"), LEARNED, ThreatModel(), 64, None),
        (MaskAttack(goal="flood"), OPAQUE, ThreatModel(), 64, "the system does not give the logits of its mask theirs"),
        (MaskAttack(goal="steal"), LEARNED, ThreatModel(), 64, "there are no guide masks to steal"),
        (GuidedAttack(goal="invert-oracle"), LEARNED, ThreatModel(), 64, "there are no oracle masks to invert"),
        (GuidedAttack(goal="invert-clean"), LEARNED, ThreatModel(), 64, None),
        (SquareAttack(), RANDOM, HIDDEN, 64, "with the seeds that this attacker does not know"),
        (SquareAttack(), LEARNED, HIDDEN, 64, None),
        (SquareAttack(), RANDOM, ThreatModel(), 64, None),
        (SquareAttack(), LEARNED, ThreatModel(norm="l2"), 4, "the tiles of its Euclidean version do not fit"),
        (AutoAttack(), RANDOM, HIDDEN, 64, "with the seeds that this attacker does not know"),
        (AutoAttack(), LEARNED, ThreatModel(norm="l2"), 4, "leave square out of its attacks"),
        (AutoAttack(attacks=("fab",)), LEARNED, ThreatModel(norm="l2"), 4, None),
        (AutoAttack(), LEARNED, ThreatModel(norm="l2"), 25, None),
        (PatchAttack(), LEARNED, ThreatModel(), 64, "it keeps to patch, and the threat is linf"),
        (PatchAttack(), LEARNED, ThreatModel(norm="patch", epsilons=(0, 1 / 64**2)), 64, None),
        (PatchAttack(), LEARNED, ThreatModel(norm="patch", epsilons=(0.9 / 64**2, 0.5)), 64, "64 x 64 pixels is less than a pixel"),
        (PatchAttack(), LEARNED, ThreatModel(norm="patch", epsilons=(0,)), 64, None),
    ],
)
def test_an_attack_is_skipped_where_it_would_say_nothing_and_says_why(
    spec: AttackSpec, traits: MaskTraits, threat: ThreatModel, side: int, reason: str | None
) -> None:
    said = spec.why_skipped(conditions(threat=threat, traits=traits, side=side))
    assert (said is None) if reason is None else (said is not None and reason in said)


def test_tiles_of_square_fit_where_pyautoattack_can_lay_them() -> None:
    """It lays them side by side from a margin on, each as wide as a fifth of the height; there are none below 5 pixels."""
    for height in range(1, 40):
        tile = height // 5
        for width in range(max(1, tile), 40):
            fits = tile > 0
            if fits:
                margin = (height - 5 * tile) // 2
                rows, columns = (range(margin, margin + side // tile * tile, tile) for side in (height, width))
                fits = rows[-1] + tile <= height and columns[-1] + tile <= width
            assert square_fits("l2", height, width) == fits, (height, width)
            assert square_fits("linf", height, width)


def test_a_patch_is_as_wide_as_the_image_at_most() -> None:
    assert [patch_side(share, 10, 40) for share in (0, 1 / 400, 0.25, 1)] == [0, 1, 10, 10]


def test_gradients_of_autoattack_are_those_of_its_members() -> None:
    """Of the published standard version: 100 iterations for each start, and of 9 targets each where there are targets."""
    assert AutoAttack(attacks=("apgd-ce",)).passes(43) == AutoAttack(attacks=("apgd-dlr",)).passes(43) == (100, 100)
    assert AutoAttack(attacks=("fab",)).passes(43) == (100, 100)
    assert AutoAttack(attacks=("apgd-t",)).passes(43) == AutoAttack(attacks=("fab-t",)).passes(43) == (900, 900)
    assert AutoAttack(attacks=("square",), num_queries=77).passes(43) == (77, 0)
    assert AutoAttack().passes(43) == (100 + 900 + 900 + 5000, 1900)
    assert SquareAttack().needs_exact_logits
    assert AutoAttack().needs_exact_logits
    assert not ClassAttack().needs_exact_logits
