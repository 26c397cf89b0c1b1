"""Figures of a report against counts done by hand and against scipy."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.evaluation.statistics import Estimate, PairedComparison
from pipeline.reporting.document import compose
from pipeline.reporting.findings import Comparison, Conclusion, find
from pipeline.reporting.reading import read_study
from pipeline.reporting.study import Condition
from pipeline.reporting.wording import answer_sentences, floor_note, p_text


def condition(test: str) -> Condition:
    return Condition("adversarial", None, test, test)


@pytest.fixture(scope="module")
def one_seed(simulated, tmp_path_factory):
    arms = [arm for arm in simulated.ARMS if arm[0] == "adversarial" and arm[5] == "main"]
    run = simulated.write_ablation(tmp_path_factory.mktemp("one") / "run", num_images=80, seeds=(3,), arms=arms)
    return read_study(run)


@pytest.fixture(scope="module")
def pooled(ablation):
    return find(read_study(ablation))


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
    findings, epsilon = find(one_seed), one_seed.epsilons[-1]
    oracle, none = by_hand(one_seed, "oracle", epsilon), by_hand(one_seed, "none", epsilon)
    figures = next(one for one in findings.systems if one.condition == condition("oracle"))
    interval = stats.binomtest(sum(oracle.values()), 80).proportion_ci(method="wilson")
    assert figures.robust[epsilon] == Estimate(value=sum(oracle.values()) / 80, low=interval.low, high=interval.high, n=80)
    only_oracle = sum(oracle[key] and not none[key] for key in oracle)
    only_none = sum(none[key] and not oracle[key] for key in oracle)
    comparison = next(one for one in findings.comparisons if one.name == "oracle - none" and one.epsilon == epsilon)
    assert comparison.difference.value == pytest.approx((only_oracle - only_none) / 80)
    assert comparison.p_value == pytest.approx(stats.binomtest(only_oracle, only_oracle + only_none).pvalue)


def test_holm_covers_all_comparisons_of_one_epsilon(one_seed):
    """Against the definition: the k-th smallest of m p values times (m - k), never below the one before."""
    findings = find(one_seed)
    for epsilon in one_seed.epsilons:
        family = sorted((one for one in findings.comparisons if one.epsilon == epsilon), key=lambda one: one.p_value)
        assert len(family) == 1 + 2 * 4  # oracle - none, and two for each of four learned systems
        highest = 0.0
        for rank, one in enumerate(family):
            highest = max(highest, min(1.0, one.p_value * (len(family) - rank)))
            assert one.adjusted == pytest.approx(highest)


def test_the_answer_is_about_the_epsilon_that_the_experiment_names(one_seed):
    """And about the largest where it names none; what it says of that epsilon is what the comparisons say of it."""
    assert one_seed.headline == 8 / 255
    named = type(one_seed)(**{**vars(one_seed), "about": {**one_seed.about, "config": {"headline_epsilon": 4 / 255}}})
    findings = find(named)
    assert findings.comparisons == find(one_seed).comparisons
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
    findings = find(type(study)(**{**vars(study), "arms": arms}))
    for comparison in findings.comparisons[1:]:
        assert max(one.p_value for one in comparison.by_seed) < 0.05
        assert comparison.p_value == 1.0


def made(name: str, value: float, low: float, high: float, adjusted: float) -> Comparison:
    difference = Estimate(value=value, low=low, high=high, n=200)
    paired = PairedComparison(difference=difference, p_value=adjusted, only_first=9, only_second=1, detectable=0.06)
    first, second = name.split(" - ")
    return Comparison(
        name=name,
        first=condition(first),
        second=condition(second),
        epsilon=8 / 255,
        difference=difference,
        p_value=adjusted,
        adjusted=adjusted,
        detectable=0.06,
        by_seed=(paired,),
        first_value=0.2 + value,
        second_value=0.2,
    )


@pytest.mark.parametrize(
    ("figures", "conclusion"),
    [
        ((0.1, 0.05, 0.15, 0.001), Conclusion.HIGHER),
        ((-0.1, -0.15, -0.05, 0.001), Conclusion.LOWER),
        ((0.1, 0.01, 0.19, 0.2), Conclusion.UNCONFIRMED),
        ((0.02, -0.03, 0.07, 0.001), Conclusion.OPEN),
    ],
)
def test_a_difference_is_claimed_only_where_interval_and_corrected_test_agree(figures, conclusion):
    assert made("oracle - none", *figures).conclusion is conclusion


def test_sentences_follow_the_conclusion():
    from pipeline.reporting.findings import Answer

    clear = made("oracle - none", 0.1, 0.05, 0.15, 0.0004)
    open_one = made("learned - none", 0.02, -0.03, 0.07, 0.6)
    behind = made("oracle - learned", 0.08, 0.03, 0.13, 0.004)
    answer = Answer(classifier_objective="adversarial", oracle_none=clear, learned_none=open_one, oracle_learned=behind)
    first, second = answer_sentences(answer)
    assert first == (
        "Removing the background with the data set's own (oracle) masks raises robust accuracy from 20.0 % to 30.0 % "
        "(+10.0 points, interval [+5.0, +15.0], p < 0.001)."
    )
    assert "learned masks cannot be told from none (+2.0 points, interval [-3.0, +7.0], p = 0.60; only about 6 points" in second
    assert "they lose 8.0 points against the oracle's (oracle minus learned: interval [+3.0, +13.0], p = 0.004)." in second
    assert floor_note(answer) is None


def test_where_nothing_stands_the_page_says_that_nothing_can_differ(pooled):
    natural = next(answer for answer in pooled.answers if answer.classifier_objective == "natural")
    assert "hardly any image survives" in floor_note(natural)
    assert natural.oracle_none.difference.low < 0 < natural.oracle_none.difference.high


def test_a_p_value_is_never_zero():
    assert [p_text(value) for value in (0.0, 0.0004, 0.031, 0.6)] == ["< 0.001", "< 0.001", "0.031", "0.60"]
