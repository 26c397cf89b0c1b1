"""Figures of a report against counts done by hand and against scipy."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.ablation.manifest import ConfinedEntry
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import pooled_over_seeds, sign_flip, smallest_detectable_difference
from pipeline.reporting import tables
from pipeline.reporting.comparisons import generator
from pipeline.reporting.data import Condition
from pipeline.reporting.document import compose
from pipeline.reporting.figures import compute_figures, share
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs
from pipeline.reporting.surface import surface_sections
from pipeline.reporting.wording import answer_sentences, floor_note, pooling_text, sample_text


def condition(test: str) -> Condition:
    return Condition("adversarial", "natural" if "learned" in test else None, test, test)


@pytest.fixture(scope="module")
def one_seed(simulated, tmp_path_factory):
    arms = [arm for arm in simulated.ARMS if arm[0] == "adversarial" and arm[5] == "main"]
    run = simulated.write_ablation(tmp_path_factory.mktemp("one") / "run", num_images=80, seeds=(3,), arms=arms)
    return read_study(run)


@pytest.fixture(scope="module")
def pooled(ablation):
    return compute_figures(read_study(ablation))


def by_hand(study, test: str, epsilon: float) -> dict[str, bool]:
    """Which images stand, by plain loops over the records."""
    arm = next(arm for arm in study.arms if (arm.condition.train_masks, arm.condition.test_masks) == (test, test))
    stands: dict[str, bool] = {}
    for row in arm.records.iter_rows(named=True):
        if row["epsilon"] <= epsilon:
            right = row["clean_prediction"] == row["label"] == row["adversarial_prediction"]
            stands[row["sample_id"]] = stands.get(row["sample_id"], True) and right
    return stands


def test_one_seed_has_wilson_intervals_and_the_exact_test(one_seed):
    findings, epsilon = compute_figures(one_seed), one_seed.epsilons[-1]
    oracle, none = by_hand(one_seed, "oracle", epsilon), by_hand(one_seed, "none", epsilon)
    figures = next(one for one in findings.systems if one.condition == condition("oracle"))
    interval = stats.binomtest(sum(oracle.values()), 80).proportion_ci(method="wilson")
    found = figures.robust(epsilon)
    assert (found.value, found.n, found.groups) == (sum(oracle.values()) / 80, 80, 80)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    only_oracle = sum(oracle[key] and not none[key] for key in oracle)
    only_none = sum(none[key] and not oracle[key] for key in oracle)
    comparison = next(one for one in findings.comparisons if one.name == "oracle - none" and one.epsilon == epsilon)
    assert comparison.difference.value == pytest.approx((only_oracle - only_none) / 80)
    assert comparison.p_value == pytest.approx(stats.binomtest(only_oracle, only_oracle + only_none).pvalue)


def test_holm_covers_all_comparisons_of_one_epsilon(one_seed):
    """Against the definition: the k-th smallest of m p values times (m - k), never below the one before."""
    findings = compute_figures(one_seed)
    assert len(one_seed.epsilons) == 3
    for epsilon in one_seed.epsilons:
        family = sorted((one for one in findings.comparisons if one.epsilon == epsilon), key=lambda one: one.p_value)
        assert len(family) == 1 + 2 * 4  # oracle - none, and two for each of four learned systems
        highest = 0.0
        for rank, one in enumerate(family):
            highest = max(highest, min(1.0, one.p_value * (len(family) - rank)))
            assert one.adjusted == pytest.approx(highest)


def test_the_answer_is_about_the_epsilon_that_the_experiment_names(one_seed):
    """And about the largest where it names none; what it says of that epsilon is what the comparisons say of it."""
    assert one_seed.primary_epsilon == 8 / 255
    named = type(one_seed)(**{**vars(one_seed), "about": {**one_seed.about, "config": {"primary_epsilon": 4 / 255}}})
    findings = compute_figures(named)
    assert findings.comparisons == compute_figures(one_seed).comparisons
    (answer,) = findings.answers
    assert answer.oracle_none == next(one for one in findings.comparisons if (one.name, one.epsilon) == ("oracle - none", 4 / 255))
    assert {one.epsilon for one in answer.comparisons} == {4 / 255}
    document = compose(named)
    assert document.answers[0].heading == "Adversarially trained classifier, attacked at 4/255"


def test_several_seeds_are_pooled_and_their_largest_p_value_counts(ablation, pooled):
    study = read_study(ablation)
    comparison = next(
        one for one in pooled.comparisons if one.name == "oracle - none" and one.first.classifier_objective != "natural"
    )
    shares = []
    for seed in (0, 1):
        arms = {
            arm.condition.test_masks: arm
            for arm in study.arms
            if arm.seed == seed
            and arm.role == "main"
            and arm.condition.classifier_objective == "adversarial"
            and arm.condition.train_masks == arm.condition.test_masks
        }
        at = pl.col("epsilon") <= comparison.epsilon
        fell = (pl.col("adversarial_prediction") != pl.col("label")).any()
        oracle, none = (
            arms[name].records.filter(at).group_by("sample_id").agg(fell=fell)["fell"].mean() for name in ("oracle", "none")
        )
        shares.append(none - oracle)
    assert comparison.difference.value == pytest.approx(np.mean(shares))
    assert comparison.p_value == max(one.p_value for one in comparison.by_seed)
    assert comparison.difference.n == 60
    assert len(comparison.by_seed) == 2


@pytest.mark.parametrize(("standing", "within"), [(0.01, 0.3), (0.01, 0.8), (0.03, 0.8), (0.97, 0.8)])
def test_the_share_of_few_images_over_two_trainings_lies_in_its_interval_as_often_as_it_says(
    standing: float, within: float
) -> None:
    """Images that stand more or less easily, alike in both trainings (beta-binomial, correlation ``within``)."""
    rng, groups, missed = np.random.default_rng(0), np.arange(215), []
    size = 1 / within - 1
    for _ in range(200):
        easy = rng.beta(standing * size, (1 - standing) * size, size=215)
        found = share(rng.random((2, 215)) < easy, groups, "simulated")
        missed.append((standing < found.low, standing > found.high))
    assert (
        np.mean(missed, axis=0) <= 0.04
    ).all()  # 2.5 % are promised; resampling alone misses up to 8 % at the end away from 0 or 1


def test_a_share_over_trainings_is_never_surer_than_wilsons_interval_or_resampling() -> None:
    groups = np.repeat(np.arange(40), 3)
    for row, threshold in enumerate((0.02, 0.3, 0.9, 1.1, -1)):
        values = np.random.default_rng(row).random((2, 120)) < threshold
        found, again = share(values, groups, "k"), np.repeat(groups, 2)
        resampled = pooled_over_seeds(values.astype(float), groups, generator("k"))
        wilson = statistics.share(values.T.ravel(), again)
        assert (found.low, found.high) == (min(resampled.low, wilson.low), max(resampled.high, wilson.high))
        assert (found.value, found.n, found.groups) == (values.mean(), 120, 40)
        assert found.low < found.high


@pytest.mark.parametrize(("first", "second", "within"), [(0.02, 0.005, 0.8), (0.03, 0.0, 0.8), (0.98, 0.96, 0.8)])
def test_the_difference_of_few_images_over_two_trainings_lies_in_its_interval_as_often_as_it_says(
    first: float, second: float, within: float
) -> None:
    """As of a share above; two systems whose images stand independently of each other."""
    rng, groups, missed = np.random.default_rng(0), np.arange(215), []
    size = 1 / within - 1
    for _ in range(200):
        one, other = (rng.random((2, 215)) < (rng.beta(p * size, (1 - p) * size, size=215) if p else 0) for p in (first, second))
        found = statistics.difference_over_seeds(one, other, groups, generator("simulated"))
        missed.append((first - second < found.low, first - second > found.high))
    assert (np.mean(missed, axis=0) <= 0.03).all()  # 2.5 % are promised; resampling alone misses 5 % at the end away from 0


def test_a_difference_over_trainings_is_never_surer_than_tangos_interval_or_resampling() -> None:
    groups = np.repeat(np.arange(40), 3)
    for row, (first, second) in enumerate(((0.02, 0.0), (0.6, 0.3), (1.1, -1), (0.5, 0.5), (-1, -1))):
        one, other = (np.random.default_rng(row).random((2, 120)) < threshold for threshold in (first, second))
        found = statistics.difference_over_seeds(one, other, groups, generator("k"))
        resampled = pooled_over_seeds(one.astype(float) - other, groups, generator("k"))
        tango = statistics.paired_difference(one.T.ravel(), other.T.ravel(), np.repeat(groups, 2))
        assert (found.low, found.high) == (min(resampled.low, tango.low), max(resampled.high, tango.high))
        assert (found.value, found.n, found.groups) == (resampled.value, 120, 40)
        assert found.low < found.high
    alone = statistics.difference_over_seeds(one[:1], other[:1], groups, generator("k"))
    assert alone == statistics.paired_difference(one[0], other[0], groups)


def test_a_gain_under_one_seed_has_the_same_interval_among_the_comparisons_and_in_the_table_of_the_surface(one_seed) -> None:
    """As if the attackers who keep to the object had found what those of the whole image did."""
    confined = tuple(
        ConfinedEntry(arm=arm.name, budget="foreground", evaluation=str(arm.path.relative_to(one_seed.path)))
        for arm in one_seed.arms
    )
    (section,) = surface_sections(replace(one_seed, confined=confined))
    gains = section.tables[1].tidy.filter((pl.col("test_masks") == "oracle") & (pl.col("train_masks") == "oracle"))
    found = {part: (value, low, high) for part, value, low, high in gains.select("part", "value", "low", "high").iter_rows()}
    at = [one for one in compute_figures(one_seed).comparisons if one.epsilon == one_seed.primary_epsilon]
    expected = next(one.difference for one in at if one.name == "oracle - none")
    assert found["gain"] == found["gain-on-object"] == (expected.value, expected.low, expected.high)
    assert found["surface"][0] == 0


def test_seeds_that_point_both_ways_show_nothing(simulated, tmp_path):
    """Two seeds whose differences are each beyond doubt, with opposite signs."""
    none, oracle = simulated.ARMS[3], simulated.ARMS[4]
    run = simulated.write_ablation(tmp_path / "run", num_images=120, seeds=(0, 1), arms=[none, oracle])
    study = read_study(run)
    swapped = [
        arm if arm.seed == 0 else next(other for other in study.arms if other.seed == 1 and other.condition != arm.condition)
        for arm in study.arms
    ]
    arms = tuple(type(arm)(**{**vars(arm), "records": source.records}) for arm, source in zip(study.arms, swapped, strict=True))
    comparisons = compute_figures(type(study)(**{**vars(study), "arms": arms})).comparisons
    assert [(one.name, one.epsilon) for one in comparisons] == [("oracle - none", epsilon) for epsilon in study.epsilons]
    for comparison in comparisons[1:]:
        assert max(one.p_value for one in comparison.by_seed) < 0.05
        assert comparison.p_value == 1.0


def test_the_answer_is_about_one_learned_system_and_says_so(pooled):
    answer = next(one for one in pooled.answers if one.classifier_objective == "adversarial")
    assert answer.learned_none.first == answer.oracle_learned.second
    assert answer.learned_none.first == Condition("adversarial", "adversarial", "learned", "learned")
    _, sentence, agreement = answer_sentences(answer)
    assert "learned masks (classifier trained with them, adversarial segmenter)" in sentence
    assert len(answer.all_learned) == 4
    alike = sum(one.conclusion is answer.learned_none.conclusion for one in answer.all_learned)
    best = max(answer.all_learned, key=lambda one: one.difference.value)
    assert (f"{alike} of the 4" if 1 < alike < 4 else "of the 4" if alike == 1 else "all 4") in agreement
    assert f"best: {100 * best.difference.value:+.1f} points, {best.first.test_masks} masks" in agreement
    natural = next(one for one in pooled.answers if one.classifier_objective == "natural")
    assert len(answer_sentences(natural)) == 2


def test_what_would_have_shown_counts_the_correction_and_every_seed(pooled):
    """The level is that of Holm's first step, the power such that all seeds together have 80 %."""
    assert len(pooled.comparisons) == 3 * (3 + 9)  # epsilons, and the pairs of both objectives
    assert {comparison.detectable is None for comparison in pooled.comparisons} == {True, False}
    for comparison in pooled.comparisons:
        family = sum(one.epsilon == comparison.epsilon for one in pooled.comparisons)
        expected = []
        for one in comparison.by_seed:
            discordance = (one.only_first + one.only_second) / 60
            level, power = 0.05 / family, 0.8 ** (1 / 2)
            expected.append(smallest_detectable_difference(60, discordance, level=level, power=power) if discordance else None)
        if None in expected:
            assert comparison.detectable is None
        else:
            assert comparison.detectable == pytest.approx(max(expected))


def test_images_of_one_photograph_count_as_one_in_every_interval_and_p_value(simulated, tmp_path):
    """The same outcomes with and without the knowledge of what belongs together."""
    grouped = simulated.write_ablation(
        tmp_path / "grouped", num_images=120, seeds=(0,), arms=simulated.ARMS[3:5], per_group=6, with_gallery=False
    )
    study = read_study(grouped)
    independent = replace(
        study, arms=tuple(replace(arm, records=arm.records.with_columns(group="sample_id")) for arm in study.arms)
    )
    knowing, ignorant = compute_figures(study), compute_figures(independent)
    assert len(knowing.systems) == 2
    for one, other in zip(knowing.systems, ignorant.systems, strict=True):
        for epsilon in study.epsilons:
            ours, theirs = one.robust(epsilon), other.robust(epsilon)
            assert (ours.value, ours.n, ours.groups, theirs.groups) == (theirs.value, 120, 20, 120)
            assert ours.high - ours.low >= theirs.high - theirs.low
    epsilon = study.epsilons[-1]
    oracle, none = by_hand(study, "oracle", epsilon), by_hand(study, "none", epsilon)
    net = dict.fromkeys((int(name[-4:]) // 6 for name in oracle), 0)
    for name in oracle:
        net[int(name[-4:]) // 6] += oracle[name] - none[name]
    comparison = next(one for one in knowing.comparisons if one.epsilon == epsilon)
    assert comparison.p_value == sign_flip(np.array(list(net.values())))
    assert sample_text(study) == "120 test images from 20 photographs or tracks, 1 training seed"
    assert sample_text(independent) == "120 test images, 1 training seed"
    assert "photographs or tracks" in compose(study).how_to_read[-1]
    assert "photograph" not in " ".join(compose(independent).how_to_read)


def test_intervals_over_two_trainings_do_not_claim_to_cover_all_trainings(ablation, one_seed, pooled):
    study = read_study(ablation)
    assert pooling_text(study) == (
        "Resampled over images and these 2 trainings; 2 trainings show only part of the variation between trainings."
    )
    assert "nothing about training again" in pooling_text(one_seed)
    table = tables.headline(study, pooled)
    by_seed = table.tidy.filter(pl.col("seed").is_not_null())
    keys = ["classifier_objective", "segmenter_objective", "train_masks", "test_masks", "epsilon"]
    pooled_values = table.tidy.filter(pl.col("seed").is_null()).sort(keys)["value"].to_numpy()
    means = by_seed.group_by(keys).agg(pl.col("value").mean(), pl.len()).sort(keys)
    assert set(means["len"]) == {2}
    assert np.allclose(means["value"].to_numpy(), pooled_values)
    assert tables.seeds(study, pooled).num_rows == 2 * len(pooled.of_role("main"))
    assert set(tables.headline(one_seed, compute_figures(one_seed)).tidy["seed"]) == {None}


def test_the_caption_of_a_table_names_the_intervals_that_stand_in_it(one_seed):
    """One training: shares have Wilson's, means those of a bootstrap, on the page of one run and on that of two."""
    other = replace(one_seed, name="again", path=one_seed.path / "again")
    for document in (compose(one_seed), compose_runs([one_seed, other])):
        captions = {table.name: table.caption for table in document.tables()}
        told = {name: ("Wilson" in text, "Bootstrap" in text) for name, text in captions.items()}
        assert told["headline"] == (True, False)
        means = {"mask-iou", "mask-area", "calibration"} & set(told)
        assert len(means) >= 2
        assert {told[name] for name in means} == {(False, True)}


def test_where_nothing_stands_the_page_says_that_nothing_can_differ(pooled):
    natural = next(answer for answer in pooled.answers if answer.classifier_objective == "natural")
    assert "hardly any image survives" in floor_note(natural)
    assert natural.oracle_none.difference.low < 0 < natural.oracle_none.difference.high


def test_a_system_that_always_says_the_same_is_named_beneath_the_answer(one_seed):
    """Every image said to be of class 0, which a fifth of them are: right on that fifth at any epsilon."""
    constant = [
        replace(
            arm, records=arm.records.with_columns(clean_prediction=pl.lit(0, pl.Int64), adversarial_prediction=pl.lit(0, pl.Int64))
        )
        if arm.condition.test_masks == "none"
        else arm
        for arm in one_seed.arms
    ]
    assert [failure.name for failure in compose(one_seed).failures if failure.name == "constant predictor"] == []
    found = [
        failure for failure in compose(replace(one_seed, arms=tuple(constant))).failures if failure.name == "constant predictor"
    ]
    (failure,) = found
    assert failure.condition.train_masks == "none"
    assert failure.findings[0].startswith("seed 3: 100% of its answers on clean images are 'circle', which 20% of them are")
