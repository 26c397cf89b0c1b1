"""Every cheat fails the check that is there for it, in full and in a weak form, and honest systems fail none."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attacks.diagnostics import Check, Outcome, gradient_free, search
from pipeline.attacks.diagnostics.differences import gradients_against_differences, gradients_reach
from pipeline.attacks.diagnostics.from_boundary import descent_reaches_boundary, search_from_boundary
from pipeline.attacks.diagnostics.gradients import finite_numbers, zero_gradients
from pipeline.attacks.diagnostics.masking import mask_follows_image, mask_saturation, pixels_decide, shifted_images
from pipeline.attacks.diagnostics.probing import (
    Budget,
    Places,
    climb,
    climb_to_targets,
    logits_of,
    misclassified,
    objective,
    probe_points,
)
from pipeline.attacks.diagnostics.sameness import same_answers
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import verdict
from pipeline.errors import InputError
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import as_system

BUDGET = Budget(norm="linf", epsilon=0.01)
QUERIES = 60


def places_of(batch: AttackBatch) -> Places:
    return cache(partial(probe_points, batch, BUDGET))


def check_named(name: str, batch: AttackBatch, places: Places | None = None) -> Check:
    """The one check of that name: what the others say costs time and proves nothing here."""
    places = places or places_of(batch)
    ids = [f"image {row}" for row in range(len(batch))]

    def square() -> Check:
        points = gradient_free.square_points(batch, BUDGET, num_queries=QUERIES)
        return gradient_free.square_against_white_box(batch, BUDGET, points, num_queries=QUERIES)

    checks: dict[str, Callable[[], Check]] = {
        "finite numbers": lambda: finite_numbers(batch, places, ids),
        "zero gradients, pixel path": lambda: zero_gradients(batch, GradientPath.PIXELS, places),
        "zero gradients, mask path": lambda: zero_gradients(batch, GradientPath.MASK, places),
        "gradients against differences": lambda: gradients_against_differences(batch, places),
        "gradients reach": lambda: gradients_reach(batch, BUDGET),
        "mask saturation": lambda: mask_saturation(batch),
        "mask follows image": lambda: mask_follows_image(batch, places),
        "pixels decide": lambda: pixels_decide(batch, places),
        "shifted images": lambda: shifted_images(batch),
        "loss against steps": lambda: search.loss_against_steps(batch, BUDGET, num_steps=20),
        "search against verdict": lambda: search.search_against_verdict(batch, BUDGET),
        "epsilon 0": lambda: search.epsilon_zero(batch, norm="linf"),
        "epsilon 1": lambda: search.epsilon_one(batch, norm="linf", region_everywhere=True),
        "smoothed gradients": lambda: search.smoothed_gradients(batch, BUDGET)[0],
        "search from the boundary": lambda: descent_reaches_boundary(batch, BUDGET, search_from_boundary(batch, BUDGET).distances),
        "Square against white-box": square,
    }
    if name in checks:
        return checks[name]()
    return next(check for check in same_answers(batch, places, company=64) if check.name == name)  # with those that come before it


HONEST = [
    MaskSource.NONE,
    MaskSource.ORACLE,
    MaskSource.LEARNED,
    pytest.param(MaskSource.LEARNED_HARD, marks=pytest.mark.slow),
    pytest.param(MaskSource.FROZEN, marks=pytest.mark.slow),
    pytest.param(MaskSource.RANDOM, marks=pytest.mark.slow),
]
SYSTEM_CHECKS = [
    "finite numbers",
    "zero gradients, pixel path",
    "zero gradients, mask path",
    "gradients against differences",
    "gradients reach",
    "mask saturation",
    "mask follows image",
    "pixels decide",
    "shifted images",
    "loss against steps",
    "search against verdict",
    "epsilon 0",
    "epsilon 1",
    "smoothed gradients",
    "search from the boundary",
    "Square against white-box",
]


@pytest.mark.parametrize("source", HONEST)
def test_an_honest_system_fails_no_check(cheats: ModuleType, source: MaskSource) -> None:
    batch = cheats.honest_batch(source)
    places = places_of(batch)
    checks = [*(check_named(name, batch, places) for name in SYSTEM_CHECKS), *same_answers(batch, places, company=64)]
    assert {check.name: check.finding for check in checks if check.outcome is Outcome.FAIL} == {}


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD])
def test_a_system_of_ones_own_that_shows_its_mask_alone_fails_no_check(cheats: ModuleType, source: MaskSource) -> None:
    batch = cheats.honest_batch(source, cheats.OwnForward)
    places = places_of(batch)
    names = [name for name in SYSTEM_CHECKS if name not in ("Square against white-box", "epsilon 1")]
    checks = {name: check_named(name, batch, places) for name in names}
    assert {name: check.finding for name, check in checks.items() if check.outcome is Outcome.FAIL} == {}
    assert checks["gradients against differences"].outcome is Outcome.PASS
    assert "masks" not in vars(batch.system)


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images) * self.factor
        return logits


@pytest.mark.parametrize(("kind", "outcome"), [("TwoStage", Outcome.PASS), ("FlippedSurrogate", Outcome.FAIL)])
def test_a_soft_gate_leads_further_than_a_surrogate_that_leads_the_wrong_way(
    cheats: ModuleType, kind: str, outcome: Outcome
) -> None:
    batch = cheats.honest_batch(MaskSource.LEARNED_HARD, getattr(cheats, kind))
    assert search.soft_to_hard_transfer(batch, Budget(norm="linf", epsilon=0.01)).outcome is outcome


@pytest.mark.parametrize("factor", [pytest.param(1e-4, marks=pytest.mark.slow), 1e4])
def test_no_verdict_depends_on_the_scale_of_the_logits(cheats: ModuleType, factor: float) -> None:
    batch = cheats.honest_batch(MaskSource.LEARNED)
    batch.system.classifier = Scaled(batch.system.classifier, factor)
    names = [name for name in SYSTEM_CHECKS if name not in ("Square against white-box", "epsilon 1")]
    places = places_of(batch)
    checks = [*(check_named(name, batch, places) for name in names), *same_answers(batch, places, company=64)]
    assert {check.name: check.finding for check in checks if check.outcome is Outcome.FAIL} == {}
    batch.system.classifier = Scaled(cheats.tricky_batch(cheats.flipped_gradients).system, factor)
    assert check_named("gradients against differences", batch).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("wrong", "of", "factor", "outcome"),
    [(1, 6, 0.5, Outcome.PASS), (2, 6, 0.5, Outcome.FAIL), (1, 1, 0.5, Outcome.FAIL), (1, 6, -1.0, Outcome.FAIL)],
)
def test_one_image_on_a_kink_is_no_wrong_gradient_and_two_are(
    cheats: ModuleType, wrong: int, of: int, factor: float, outcome: Outcome
) -> None:
    clean = cheats.honest_batch().images[:wrong]

    def cheat(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        near = (images[:, None] - clean[None]).flatten(2).abs().amax(dim=2).amin(dim=1) < 0.1
        return torch.where(near[:, None], cheats.scaled_gradients(system, images, factor), system.honest(images))

    check = check_named("gradients against differences", cheats.tricky_batch(cheat).select(torch.arange(of)))
    assert (check.outcome, check.figures["disagreeing"]) == (outcome, pytest.approx(wrong / of))


FULL = {
    "rounded_pixels": "zero gradients, pixel path",
    "one_hot_answer": "zero gradients, pixel path",
    "detached_straight_through": "gradients against differences",
    "saturated_temperature": "zero gradients, pixel path",
    "exploding_logits": "finite numbers",
    "swamped_logits": "finite numbers",
    "vanishing_logits": "zero gradients, pixel path",
    "noise_at_test_time": "repeated calls",
    "random_crop": "repeated calls",
    "noise_by_call": "repeated calls",
    "every_fifth_call": "repeated calls",
    "random_choice": "repeated calls",
    "batch_statistics": "batch invariance",
    "blind_with_gradients": "gradients on and off",
    "blind_for_attacked_weights": "gradients on and off",
    "blind_copy": "copies",
    "flat_copy": "gradient invariance",
    "flat_copy_where_faint": "gradient invariance",
    "flat_in_large_batches": "gradient invariance",
    "noisy_gradients": "gradient invariance",
    "known_images": "gradients against differences",
    "detector": "zero gradients, pixel path",
    "compression": "zero gradients, pixel path",
    "median_filter": "zero gradients, pixel path",
    "nearest_known_image": "zero gradients, pixel path",
    "checkerboard": "gradients against differences",
    "flipped_gradients": "gradients against differences",
    "clipped_gradients": "gradients against differences",
    "winners_take_all": "gradients against differences",
    "ripples": "gradients reach",
    "nan_gradients": "finite numbers",
    "watching_the_stack": "search against verdict",
    "other_in_float64": "threads, layout and types",
    "other_by_threads": "threads, layout and types",
    "other_by_layout": "threads, layout and types",
    "moat": "search from the boundary",
    "wavy_pixels": "smoothed gradients",
    "guarded": "zero gradients, pixel path",
    "mirrored": "gradients against differences",
    "relapsing": "gradients against differences",
    "remembered_labels": "gradients against differences",
    "smoothly_remembered_labels": "shifted images",
    "remembers_what_it_saw": "gradients against differences",
    "flipped_off_the_image": "gradients against differences",
    "flipped_in_corners": "gradients against differences",
    "loyal_to_verdicts": "search against verdict",
    "flat_for_searches": "gradient invariance",
    "flat_where_rearranged": "gradient invariance",
    "by_the_clock": "repeated calls",
    "noise_by_content": "gradients against differences",
    "dropout_by_content": "gradients against differences",
    "dropout_of_one_seed": "batch invariance",
    "switch_by_content": "gradients against differences",
    "certain_answer": "finite numbers",
    "cautious_probabilities": "zero gradients, pixel path",
    "coarse_logits": "gradients against differences",
    "straight_through_pixels": "gradients against differences",
    "eight_bits": "gradients against differences",
    "sixteen_bit_pixels": "gradients against differences",
    "signs_of_gradients": "gradients against differences",
    "underflowing_gradients": "gradients against differences",
    "permuted_gradients": "gradients against differences",
    "sparse_gradients": "gradients against differences",
    "hook_on_images": "gradients against differences",
    "every_third_backward": "gradient invariance",
    "detached_twin": "gradients against differences",
    "turns_round_in_a_search": "gradient invariance",
    "flat_in_middling_batches": "gradient invariance",
    "blind_off_the_image": "finite numbers",
    "whispers_in_doubt": "zero gradients, pixel path",
    "alone_when_sure": "finite numbers",
    "lies_to_cross_entropy": "gradients against differences",
    "lies_about_targets": "gradients against differences",
    "decoy_class": "search from the boundary",
    "decoy_gradient": "search from the boundary",
    "steep_steps": "zero gradients, pixel path",
    "votes": "gradients against differences",
    "anti_adversary": "gradients against differences",
    "purifier": "gradients against differences",
    "sparse_fourier": "gradients against differences",
    "low_rank": "gradients against differences",
    "drift_under_noise": "gradients against differences",
    "chaos": "gradients reach",
    "microscopic_waves": "gradients reach",
    "shift_proof_memory": "shifted images",
    "memory_of_colors": "shifted images",
    "sleepy_near_the_data": "shifted images",
    "flat_in_odd_batches": "gradient invariance",
    "blind_in_odd_batches": "batch invariance",
    "stateful_detector": "gradients against differences",
    "adapts": "repeated calls",
    "flipped_by_content": "gradients against differences",
    "flipped_after_forty": "gradient invariance",
    "ties_in_doubt": "zero gradients, pixel path",
    "color_without_gradient": "gradients against differences",
    "deflected_pixels": "gradients against differences",
    "moved_pixels_without_gradient": "gradients against differences",
    "smoothed_surrogate": "gradients against differences",
    "running_mean": "repeated calls",
    "by_the_calendar": "repeated calls",
    "by_a_clock_with_a_name": "repeated calls",
    "crosstalk_of_gradients": "gradient invariance",
    "sluggish_gradients": "gradient invariance",
    "linear_backwards": "gradients against differences",
    "cancelled_pixels": "gradients against differences",
    "equalized": "gradients against differences",
    "overwrites_images": "gradients against differences",
    "table_of_pixels": "smoothed gradients",
    "reads_labels": "batch invariance",
    "soft_memory": "shifted images",
    "modest_memory": "shifted images",
    "memory_elsewhere": "shifted images",
    "memory_of_features": "shifted images",
    "memory_of_bits": "shifted images",
    "span_of_known_images": "shifted images",
    "by_the_hour_in_words": "repeated calls",
    "by_the_weekday_in_words": "repeated calls",
    "by_processor_time": "repeated calls",
    "by_a_clock_with_a_number": "repeated calls",
    "draws_and_puts_back": "repeated calls",
    "by_the_global_seed": "repeated calls",
    "gentle_to_examiners": "repeated calls",
    "reads_labels_of_the_first": "repeated calls",
    "right_around_known_alone": "shifted images",
}


def test_to_ask_by_other_seeds_leaves_the_global_generators_as_they_were(cheats: ModuleType) -> None:
    def states() -> list[object]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]  # Python's own moves where types are checked

    before, batch = states(), cheats.honest_batch()
    check_named("repeated calls", batch)
    assert states() == before


def few_of_each_check(cheats: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Cases whose last word is a check: three of each run by default, and what else it has to name is slow."""
    seen = Counter[str]()
    marked = []
    for case in cheats:
        seen[case[-1]] += 1
        marked.append(pytest.param(*case, marks=[pytest.mark.slow] if seen[case[-1]] > 3 else []))
    return marked


@pytest.mark.parametrize(("trick", "caught_by"), few_of_each_check(FULL.items()))
def test_a_cheat_fails_the_check_that_is_there_for_it(cheats: ModuleType, trick: str, caught_by: str) -> None:
    check = check_named(caught_by, cheats.tricky_batch(getattr(cheats, trick)))
    assert check.outcome is Outcome.FAIL, check.finding
    assert check.advice


WEAK = [
    ("near_the_boundary", "rounded_pixels", "zero gradients, pixel path"),
    ("near_the_boundary", "one_hot_answer", "zero gradients, pixel path"),
    ("near_the_boundary", "compression", "zero gradients, pixel path"),
    ("near_the_boundary", "nearest_known_image", "zero gradients, pixel path"),
    ("near_the_boundary", "detached_straight_through", "gradients against differences"),
    ("near_the_boundary", "clipped_gradients", "gradients against differences"),
    ("near_the_boundary", "flipped_gradients", "gradients against differences"),
    ("near_the_boundary", "noise_at_test_time", "repeated calls"),
    ("near_the_boundary", "noise_by_call", "repeated calls"),
    ("near_the_boundary", "random_choice", "repeated calls"),
    ("near_the_boundary", "watching_the_stack", "search against verdict"),
    ("near_the_boundary", "noisy_gradients", "gradient invariance"),
    ("near_the_boundary", "blind_with_gradients", "gradients on and off"),
    ("near_the_boundary", "blind_copy", "copies"),
    ("near_the_boundary", "other_in_float64", "threads, layout and types"),
    ("near_the_boundary", "other_by_threads", "threads, layout and types"),
    ("on_some_classes", "saturated_temperature", "zero gradients, pixel path"),
    ("on_some_classes", "vanishing_logits", "zero gradients, pixel path"),
    ("on_some_classes", "median_filter", "zero gradients, pixel path"),
    ("on_some_classes", "exploding_logits", "finite numbers"),
    ("on_some_classes", "swamped_logits", "finite numbers"),
    ("on_some_classes", "nan_gradients", "finite numbers"),
    ("on_some_classes", "random_crop", "repeated calls"),
    ("on_some_classes", "every_fifth_call", "repeated calls"),
    ("on_some_classes", "blind_for_attacked_weights", "gradients on and off"),
    ("on_some_classes", "flat_copy", "gradient invariance"),
    ("near_the_boundary", "flat_copy_where_faint", "gradient invariance"),
    ("on_some_classes", "flat_in_large_batches", "gradient invariance"),
    ("on_some_classes", "checkerboard", "gradients against differences"),
    ("on_some_classes", "other_by_layout", "threads, layout and types"),
    ("in_large_batches", "batch_statistics", "batch invariance"),
    ("in_large_batches", "detached_straight_through", "gradient invariance"),
    ("in_large_batches", "noise_at_test_time", "batch invariance"),
    ("by_half", "ripples", "gradients reach"),
    ("by_half", "known_images", "gradients against differences"),
    ("by_half", "detector", "gradients against differences"),
    ("by_half", "batch_statistics", "batch invariance"),
    ("by_half", "detached_straight_through", "gradients against differences"),
    ("by_half", "winners_take_all", "gradients against differences"),
    ("on_some_classes", "moat", "search from the boundary"),
    ("on_some_classes", "wavy_pixels", "gradients against differences"),
    ("on_some_classes", "guarded", "zero gradients, pixel path"),
    ("near_the_boundary", "guarded", "zero gradients, pixel path"),
    ("on_some_classes", "mirrored", "gradients against differences"),
    ("near_the_boundary", "mirrored", "gradients against differences"),
    ("near_the_boundary", "relapsing", "gradients against differences"),
    ("by_half", "remembered_labels", "gradients against differences"),
    ("on_some_classes", "smoothly_remembered_labels", "shifted images"),
    ("near_the_boundary", "remembers_what_it_saw", "gradients against differences"),
    ("on_some_classes", "flipped_off_the_image", "gradients against differences"),
    ("on_some_classes", "flipped_in_corners", "gradients against differences"),
    ("near_the_boundary", "loyal_to_verdicts", "search against verdict"),
    ("on_some_classes", "flat_for_searches", "gradient invariance"),
    ("by_half", "flat_where_rearranged", "gradient invariance"),
    ("near_the_boundary", "by_the_clock", "repeated calls"),
    ("by_half", "noise_by_content", "gradients against differences"),
    ("by_half", "dropout_by_content", "gradients against differences"),
    ("near_the_boundary", "dropout_of_one_seed", "batch invariance"),
    ("by_half", "switch_by_content", "gradients against differences"),
    ("on_some_classes", "certain_answer", "finite numbers"),
    ("on_some_classes", "cautious_probabilities", "zero gradients, pixel path"),
    ("by_half", "coarse_logits", "gradients against differences"),
    ("near_the_boundary", "straight_through_pixels", "gradients against differences"),
    ("by_half", "eight_bits", "gradients against differences"),
    ("on_some_classes", "sixteen_bit_pixels", "gradients against differences"),
    ("by_half", "signs_of_gradients", "gradients against differences"),
    ("near_the_boundary", "underflowing_gradients", "gradients against differences"),
    ("by_half", "permuted_gradients", "gradients against differences"),
    ("near_the_boundary", "sparse_gradients", "gradients against differences"),
    ("on_some_classes", "hook_on_images", "gradients against differences"),
    ("near_the_boundary", "every_third_backward", "gradient invariance"),
    ("on_some_classes", "detached_twin", "gradients against differences"),
    ("on_some_classes", "turns_round_in_a_search", "gradient invariance"),
    ("on_some_classes", "flat_in_middling_batches", "gradient invariance"),
    ("on_some_classes", "blind_off_the_image", "finite numbers"),
    ("on_some_classes", "whispers_in_doubt", "zero gradients, pixel path"),
    ("on_some_classes", "alone_when_sure", "finite numbers"),
    ("near_the_boundary", "lies_to_cross_entropy", "gradients against differences"),
    ("on_some_classes", "lies_about_targets", "gradients against differences"),
    ("on_some_classes", "decoy_gradient", "search from the boundary"),
    ("on_some_classes", "steep_steps", "zero gradients, pixel path"),
    ("by_half", "votes", "gradients against differences"),
    ("near_the_boundary", "anti_adversary", "gradients against differences"),
    ("by_half", "purifier", "gradients against differences"),
    ("on_some_classes", "sparse_fourier", "gradients against differences"),
    ("by_half", "low_rank", "gradients against differences"),
    ("near_the_boundary", "drift_under_noise", "gradients against differences"),
    ("by_half", "chaos", "gradients reach"),
    ("by_half", "microscopic_waves", "gradients reach"),
    ("on_some_classes", "shift_proof_memory", "shifted images"),
    ("on_some_classes", "memory_of_colors", "shifted images"),
    ("on_some_classes", "sleepy_near_the_data", "shifted images"),
    ("on_some_classes", "flat_in_odd_batches", "gradient invariance"),
    ("near_the_boundary", "blind_in_odd_batches", "batch invariance"),
    ("by_half", "stateful_detector", "gradients against differences"),
    ("near_the_boundary", "adapts", "repeated calls"),
    ("near_the_boundary", "flipped_by_content", "gradients against differences"),
    ("on_some_classes", "flipped_after_forty", "gradient invariance"),
    ("on_some_classes", "ties_in_doubt", "zero gradients, pixel path"),
    ("on_some_classes", "color_without_gradient", "gradients against differences"),
    ("by_half", "deflected_pixels", "gradients against differences"),
    ("near_the_boundary", "moved_pixels_without_gradient", "gradients against differences"),
    ("by_half", "smoothed_surrogate", "gradients against differences"),
    ("on_some_classes", "running_mean", "repeated calls"),
    ("near_the_boundary", "by_the_calendar", "repeated calls"),
    ("on_some_classes", "by_a_clock_with_a_name", "repeated calls"),
    ("near_the_boundary", "crosstalk_of_gradients", "gradient invariance"),
    ("on_some_classes", "sluggish_gradients", "gradient invariance"),
    ("by_half", "linear_backwards", "gradients against differences"),
    ("on_some_classes", "cancelled_pixels", "gradients against differences"),
    ("by_half", "equalized", "gradients against differences"),
    ("by_half", "overwrites_images", "gradients against differences"),
    ("by_half", "table_of_pixels", "smoothed gradients"),
    ("by_half", "reads_labels", "batch invariance"),
    ("by_half", "soft_memory", "shifted images"),
    ("on_some_classes", "modest_memory", "shifted images"),
    ("on_some_classes", "memory_elsewhere", "shifted images"),
    ("by_half", "memory_of_features", "shifted images"),
    ("on_some_classes", "memory_of_bits", "shifted images"),
    ("by_half", "span_of_known_images", "shifted images"),
    ("by_half", "by_the_hour_in_words", "repeated calls"),
    ("near_the_boundary", "by_the_weekday_in_words", "repeated calls"),
    ("on_some_classes", "by_processor_time", "repeated calls"),
    ("by_half", "by_a_clock_with_a_number", "repeated calls"),
    ("near_the_boundary", "draws_and_puts_back", "repeated calls"),
    ("by_half", "by_the_global_seed", "repeated calls"),
    ("on_some_classes", "gentle_to_examiners", "repeated calls"),
    ("by_half", "reads_labels_of_the_first", "repeated calls"),
    ("on_some_classes", "right_around_known_alone", "shifted images"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("weakened", "trick", "caught_by"), WEAK)
def test_a_cheat_in_a_weak_form_fails_it_as_well(cheats: ModuleType, weakened: str, trick: str, caught_by: str) -> None:
    weak = getattr(cheats, weakened)(getattr(cheats, trick))
    check = check_named(caught_by, cheats.tricky_batch(weak))
    assert check.outcome is Outcome.FAIL, check.finding


DEAD = [
    "blind_with_gradients",
    "detached_straight_through",
    "clipped_gradients",
    "noise_at_test_time",
    "batch_statistics",
    "blind_copy",
    "rounded_pixels",
    "watching_the_stack",
    "other_by_threads",
]


@pytest.mark.parametrize("trick", DEAD)
def test_a_class_that_is_ruled_out_by_a_constant_hides_no_cheat(cheats: ModuleType, trick: str) -> None:
    batch = cheats.tricky_batch(cheats.with_a_dead_class(getattr(cheats, trick)))
    check = check_named(FULL[trick], batch)
    assert check.outcome is Outcome.FAIL, check.finding


@pytest.mark.parametrize("form", ["with_a_dead_class", "with_a_forbidden_class"])
def test_to_rule_a_class_out_is_no_cheat(cheats: ModuleType, form: str) -> None:
    batch = cheats.tricky_batch(getattr(cheats, form)(cheats.nothing))
    places = places_of(batch)
    checks = [
        *(check_named(name, batch, places) for name in SYSTEM_CHECKS if name != "epsilon 1"),
        *same_answers(batch, places, company=64),
    ]
    assert {check.name: check.finding for check in checks if check.outcome is Outcome.FAIL} == {}


@pytest.mark.parametrize(
    ("trick", "outcome"),
    [("color_by_contrast", Outcome.PASS), ("smoothly_remembered_labels", Outcome.FAIL), ("sleepy_near_the_data", Outcome.FAIL)],
)
def test_a_softmax_that_is_sure_of_the_images_knows_none_of_them_and_hides_no_memory(
    cheats: ModuleType, trick: str, outcome: Outcome
) -> None:
    check = check_named("shifted images", cheats.tricky_batch(cheats.as_probabilities(getattr(cheats, trick))))
    assert check.outcome is outcome, check.finding


def test_a_system_that_is_its_own_copy_is_examined_and_left_in_its_type(cheats: ModuleType) -> None:
    class Itself(nn.Sequential):
        def __deepcopy__(self, memo: dict[int, Any]) -> "Itself":
            return self

    batch = cheats.honest_batch()
    batch = replace(batch, system=as_system(Itself(*batch.system.classifier).eval()), context=None)
    checks = {check.name: check for check in same_answers(batch, places_of(batch), company=64)}
    assert {check.outcome for check in checks.values()} == {Outcome.PASS, Outcome.SKIP}
    assert (checks["copies"].outcome, "shares parts or weights" in checks["copies"].finding) == (Outcome.SKIP, True)
    assert {weight.dtype for weight in batch.system.parameters()} == {torch.float32}


def test_a_system_whose_classes_depend_on_the_batch_is_refused_in_one_line(cheats: ModuleType) -> None:
    def trick(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = system.honest(images)
        return nn.functional.pad(logits, (0, 1), value=-9.0) if len(images) in (2, 3) else logits

    batch = cheats.tricky_batch(trick)
    with pytest.raises(InputError, match=r"^the system has 5 and 4 classes, by the batch: [^\n]*$"):
        list(same_answers(batch, places_of(batch), company=64))


@pytest.mark.parametrize(("hair", "outcome"), [(1e-8, Outcome.PASS), (1e-3, Outcome.FAIL)])
def test_what_is_chosen_by_a_hair_may_be_chosen_otherwise_in_another_batch(
    cheats: ModuleType, hair: float, outcome: Outcome
) -> None:
    """Where an image is alone sums are rounded otherwise, and here the choice of a route lies within that; more is no rounding."""
    levels = cheats.honest_batch().images.double().mean(dim=(1, 2, 3))

    def routed(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        above = images.double().mean(dim=(1, 2, 3))[:, None] + hair * (len(images) == 1) - levels - hair / 2
        way = ((above > 0).sum(dim=1) % 2)[:, None]
        logits: torch.Tensor = system.honest(images) + 0.5 * way * torch.eye(4).to(images)[0]
        return logits

    check = check_named("batch invariance", cheats.tricky_batch(routed))
    assert check.outcome is outcome, check.finding


@pytest.mark.parametrize("trick", ["one_hot_answer", "always_the_first"])
def test_what_is_flat_everywhere_knows_no_image(cheats: ModuleType, trick: str) -> None:
    check = check_named("shifted images", cheats.tricky_batch(getattr(cheats, trick)))
    assert (check.outcome, check.figures["steep"]) == (Outcome.PASS, 1), check.finding


def test_what_a_system_crops_away_hides_no_gradient(cheats: ModuleType) -> None:
    def cropped(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = system.honest(nn.functional.interpolate(images[:, :, 3:-3, 3:-3], size=images.shape[2:]))
        return logits

    def cut(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        inside = nn.functional.pad(torch.ones_like(images[:, :, 3:-3, 3:-3]), (3, 3, 3, 3)) > 0
        logits: torch.Tensor = system.honest(torch.where(inside, images, images.detach()))
        return logits

    outcomes = {}
    for trick in (cropped, cut):
        batch = cheats.tricky_batch(trick)
        outcomes[trick] = check_named("zero gradients, pixel path", batch).outcome
    assert outcomes == {cropped: Outcome.PASS, cut: Outcome.FAIL}


@pytest.mark.parametrize(("seen", "outcome"), [("true", Outcome.PASS), ("cut", Outcome.FAIL)])
def test_the_median_of_neighbors_reads_one_of_many(cheats: ModuleType, seen: str, outcome: Outcome) -> None:
    """Most values have no gradient in either: the one reads no others, the other reads them behind its back."""

    def median(system: nn.Module, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
        medians = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(dim=4).values
        beside = 0 if seen == "true" else (images - images.mean()).detach() / 2
        logits: torch.Tensor = system.honest(medians + beside)
        return logits

    check = check_named("zero gradients, pixel path", cheats.tricky_batch(median))
    assert check.outcome is outcome, check.finding


def test_images_that_show_nothing_are_left_out_of_blind_ones_and_of_those_that_do_not_rise(cheats: ModuleType) -> None:
    batch = cheats.honest_batch(MaskSource.ORACLE)
    masks = batch.context.oracle_masks.clone()
    masks[:3] = 0
    partly = replace(batch, context=batch.context._replace(oracle_masks=masks))
    partly = replace(partly, labels=logits_of(partly).argmax(dim=1))
    check = zero_gradients(partly, GradientPath.PIXELS, places_of(partly))
    assert (check.outcome, check.figures["blind_images"]) == (Outcome.PASS, 0)
    steps = search.loss_against_steps(partly, BUDGET, num_steps=20)
    assert (steps.outcome, steps.figures["images"], steps.figures["stuck"]) == (Outcome.PASS, len(masks) - 3, 0)
    background = replace(BUDGET, region=batch.context.oracle_masks == 0)
    assert search.loss_against_steps(batch, background, num_steps=20).outcome is Outcome.SKIP


class WithTable(nn.Module):
    """Has a parameter of whole numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.table = nn.Parameter(torch.arange(4), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[:, self.table]
        return logits


def test_parameters_of_whole_numbers_are_left_as_they_are(cheats: ModuleType) -> None:
    batch = cheats.honest_batch()
    batch = replace(batch, system=as_system(WithTable(batch.system.classifier).eval()), context=None)
    assert {check.outcome for check in same_answers(batch, places_of(batch), company=64)} == {Outcome.PASS}


def test_every_cheat_has_a_weak_form() -> None:
    assert {trick for _, trick, _ in WEAK} | {"decoy_class"} == set(FULL)  # there is no part of a class


WITH_MASKS = [
    ("NoSurrogate", MaskSource.LEARNED_HARD, "zero gradients, mask path"),
    ("HotGate", MaskSource.LEARNED, "mask saturation"),
    ("WarmGate", MaskSource.LEARNED, "mask saturation"),
    ("FrozenAsLearned", MaskSource.LEARNED, "mask follows image"),
    ("HalfFrozen", MaskSource.LEARNED, "mask follows image"),
    ("OtherMaskThanShown", MaskSource.LEARNED, "mask follows image"),
    ("LabelInMask", MaskSource.ORACLE, "pixels decide"),
    ("LabelWhispered", MaskSource.ORACLE, "pixels decide"),
    ("LabelOfSomeClasses", MaskSource.ORACLE, "pixels decide"),
    ("FlippedSurrogate", MaskSource.LEARNED_HARD, "mask saturation"),
    ("HalfFlippedSurrogate", MaskSource.LEARNED_HARD, "mask saturation"),
    ("DeafSegmenter", MaskSource.LEARNED, "zero gradients, mask path"),
    ("HalfDeafSegmenter", MaskSource.LEARNED, "gradients against differences"),
    ("FlippedSegmenter", MaskSource.LEARNED, "gradients against differences"),
    ("FlippedSegmenter", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("NoisySegmenter", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("PosterMask", MaskSource.LEARNED, "gradients against differences"),
    ("MemorizedMask", MaskSource.LEARNED, "gradients against differences"),
    ("MemorizedMask", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("LiesThroughStages", MaskSource.LEARNED, "gradients against differences"),
    ("LiesThroughStages", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("LiesOnBothPaths", MaskSource.LEARNED, "gradients against differences"),
    ("LiesOnBothPaths", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("OtherLogitsThanUsed", MaskSource.LEARNED, "mask follows image"),
    ("OtherStagesOffTheImage", MaskSource.LEARNED, "mask follows image"),
    ("KeepsAnswers", MaskSource.FROZEN, "mask follows image"),
    ("SoftAsHard", MaskSource.LEARNED_HARD, "mask follows image"),
    ("HidesStages", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("HidesNothing", MaskSource.ORACLE, "mask follows image"),
    ("HidesNothing", MaskSource.NONE, "mask follows image"),
    ("RaisedBySeed", MaskSource.ORACLE, "pixels decide"),
    ("SeedInDoubt", MaskSource.ORACLE, "pixels decide"),
    ("OwnForwardFlipped", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("OwnForwardFlipped", MaskSource.LEARNED, "gradients against differences"),
    ("OwnForwardHalfFlipped", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("OwnForwardFlippedMask", MaskSource.LEARNED_HARD, "mask saturation"),
    ("OwnForwardCutMask", MaskSource.LEARNED_HARD, "mask saturation"),
    ("HotOffTheImage", MaskSource.LEARNED, "gradients against differences"),
    ("HotOffTheImage", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("CoarseSegmenter", MaskSource.LEARNED, "gradients against differences"),
    ("CoarseSegmenter", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("RoundsInside", MaskSource.LEARNED, "gradients against differences"),
    ("RoundsFinelyInside", MaskSource.LEARNED, "gradients against differences"),
    ("MedianMask", MaskSource.LEARNED, "gradients against differences"),
    ("RemembersAtFreezing", MaskSource.LEARNED, "shifted images"),
    ("FarsightedSegmenter", MaskSource.LEARNED, "gradients against differences"),
    ("FarsightedSegmenter", MaskSource.LEARNED_HARD, "gradients against differences"),
    ("MaskOfBatch", MaskSource.LEARNED, "batch invariance"),
    ("OpaqueWhereSure", MaskSource.LEARNED, "zero gradients, pixel path"),
    ("OracleInside", MaskSource.LEARNED, "pixels decide"),
    ("OracleFaintlyInside", MaskSource.LEARNED, "pixels decide"),
    ("CleanMaskInside", MaskSource.LEARNED, "pixels decide"),
    ("CleanMaskInside", MaskSource.LEARNED_HARD, "pixels decide"),
]


@pytest.mark.parametrize(("kind", "source", "caught_by"), few_of_each_check(WITH_MASKS))
def test_a_cheat_with_its_mask_fails_the_check_that_is_there_for_it(
    cheats: ModuleType, kind: str, source: MaskSource, caught_by: str
) -> None:
    check = check_named(caught_by, cheats.honest_batch(source, getattr(cheats, kind)))
    assert check.outcome is Outcome.FAIL, check.finding


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("TwoStage", Outcome.PASS), ("LabelInDigits", Outcome.FAIL), ("LabelWhisperedInDigits", Outcome.FAIL)],
)
def test_a_mask_may_not_name_the_class_in_digits_that_nobody_sees(cheats: ModuleType, kind: str, outcome: Outcome) -> None:
    batch = cheats.honest_batch(MaskSource.ORACLE, getattr(cheats, kind))
    masks = batch.context.oracle_masks.clone()
    masks[:, 0, 0, 0] = batch.labels / 1000
    coded = replace(batch, context=batch.context._replace(oracle_masks=masks))
    assert check_named("pixels decide", coded).outcome is outcome


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("TwoStage", Outcome.PASS), ("AnswerInFrozenMask", Outcome.FAIL), ("AnswerWhisperedInFrozenMask", Outcome.FAIL)],
)
def test_a_frozen_mask_may_not_name_the_class_in_digits_that_nobody_sees(cheats: ModuleType, kind: str, outcome: Outcome) -> None:
    """Where no other mask is given with the image."""
    batch = cheats.honest_batch(MaskSource.FROZEN, getattr(cheats, kind))
    alone = replace(batch, context=batch.system.freeze(batch.images, MaskContext(sample_seeds=batch.context.sample_seeds)))
    assert check_named("pixels decide", alone).outcome is outcome


def test_the_power_of_square_is_the_share_of_what_descent_fells_that_it_fells_too(cheats: ModuleType) -> None:
    batch = cheats.honest_batch(MaskSource.NONE)
    wide = Budget(norm="linf", epsilon=0.1)
    found = gradient_free.square_points(batch, wide, num_queries=QUERIES)
    assert float((found - batch.images).abs().max()) <= 0.1
    check = gradient_free.square_against_white_box(batch, wide, found, num_queries=QUERIES)
    by_square = verdict(batch.system, found, batch.labels, batch.context).misclassified
    by_descent = misclassified(batch, climb(objective(batch), batch, wide).points) | misclassified(
        batch, climb_to_targets(batch, wide)
    )
    assert by_descent.any()
    assert check.figures["power"] == pytest.approx(float((by_square & by_descent).sum() / by_descent.sum()))
    unmoved = gradient_free.square_against_white_box(batch, wide, batch.images, num_queries=QUERIES)
    assert (unmoved.outcome, unmoved.figures["power"]) == (Outcome.SKIP, 0)


def test_points_that_descent_leads_to_are_never_further_than_descent(cheats: ModuleType) -> None:
    batch = cheats.honest_batch(MaskSource.NONE)
    for points in (climb(objective(batch), batch, BUDGET).points, climb_to_targets(batch, BUDGET)):
        assert gradient_free.square_against_white_box(batch, BUDGET, points, num_queries=QUERIES).figures["ahead"] == 0


def test_square_asks_nothing_about_what_is_misclassified_as_it_is(cheats: ModuleType) -> None:
    batch = cheats.honest_batch(MaskSource.NONE)
    wrong = replace(batch, labels=(batch.labels + 1) % cheats.CLASSES)
    found = gradient_free.square_points(wrong.select(torch.arange(2)), BUDGET, num_queries=QUERIES)
    assert verdict(wrong.system, found, wrong.labels[:2], None).misclassified.all()
