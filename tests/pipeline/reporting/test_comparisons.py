"""What a comparison allows to say, and which system the answer is about: made-up figures, sentences read as they are."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.primary_comparison import primary_rank
from pipeline.evaluation.statistics import Estimate, PairedComparison
from pipeline.reporting.comparisons import Answer, Comparison, Conclusion, answered
from pipeline.reporting.data import Condition
from pipeline.reporting.reading import NOT_RECORDED
from pipeline.reporting.wording import answer_sentences, classifier, floor_note, p_text


def condition(test: str) -> Condition:
    return Condition("adversarial", "natural" if "learned" in test else None, test, test)


def made(name: str, value: float, low: float, high: float, adjusted: float, *, alone: float | None = None) -> Comparison:
    difference = Estimate(value=value, low=low, high=high, n=200, groups=200)
    p_value = adjusted if alone is None else alone
    paired = PairedComparison(difference=difference, p_value=p_value, only_first=9, only_second=1, effective=200.0)
    first, second = name.split(" - ")
    return Comparison(
        name=name,
        first=condition(first),
        second=condition(second),
        epsilon=8 / 255,
        difference=difference,
        p_value=p_value,
        adjusted=adjusted,
        detectable=0.06,
        by_seed=(paired,),
        first_value=0.2 + value,
        second_value=0.2,
    )


@pytest.mark.parametrize(
    ("figures", "alone", "conclusion"),
    [
        ((0.1, 0.05, 0.15, 0.001), 0.001, Conclusion.HIGHER),
        ((-0.1, -0.15, -0.05, 0.001), 0.001, Conclusion.LOWER),
        ((0.1, 0.01, 0.19, 0.2), 0.04, Conclusion.UNCONFIRMED),
        ((0.1, 0.01, 0.19, 0.2), 0.05, Conclusion.OPEN),  # not the correction's fault
        ((0.02, -0.03, 0.07, 0.001), 0.001, Conclusion.OPEN),
        ((0.02, 1e-17, 0.07, 0.001), 0.001, Conclusion.OPEN),  # the dust of rounding
    ],
)
def test_a_difference_is_claimed_only_where_interval_and_corrected_test_agree(figures, alone, conclusion):
    assert made("oracle - none", *figures, alone=alone).conclusion is conclusion


def test_sentences_follow_the_conclusion():
    clear = made("oracle - none", 0.1, 0.05, 0.15, 0.0004)
    open_one = made("learned - none", 0.02, -0.03, 0.07, 0.6)
    behind = made("oracle - learned", 0.08, 0.03, 0.13, 0.004)
    answer = Answer(classifier_objective="adversarial", oracle_none=clear, learned_none=open_one, oracle_learned=behind)
    first, second = answer_sentences(answer)
    assert first == (
        "Removing the background with the data set's own (oracle) masks raises robust accuracy from 20.0 % to 30.0 % "
        "(+10.0 points, interval [+5.0, +15.0], p < 0.001)."
    )
    assert "learned masks (classifier trained with them, natural segmenter) came out at 22.0 % against 20.0 % with none" in second
    assert "cannot be told apart (+2.0 points, interval [-3.0, +7.0], p = 0.60; only about 6 points or more would" in second
    assert "they lose 8.0 points against the oracle's (oracle minus learned: interval [+3.0, +13.0], p = 0.004)." in second
    assert floor_note(answer) is None


VERBS = ("raise", "lower", "change", "look", "better", "worse", "lose", "gain", "below", "above")


@pytest.mark.parametrize(("adjusted", "alone"), [(0.2, 0.04), (0.2, 0.08)])
def test_no_verb_asserts_what_the_test_does_not_show(adjusted, alone):
    names = ("oracle - none", "learned - none", "oracle - learned")
    oracle, learned, behind = (made(name, 0.05, 0.01, 0.09, adjusted, alone=alone) for name in names)
    answer = Answer(classifier_objective="adversarial", oracle_none=oracle, learned_none=learned, oracle_learned=behind)
    text = " ".join(answer_sentences(answer))
    assert not [verb for verb in VERBS if re.search(rf"\b{verb}", text)]
    assert text.count("came out at") == 3
    assert text.count("corrected for the number") == (3 if alone < 0.05 else 0)
    assert text.count("told apart") + text.count("tell apart") == (0 if alone < 0.05 else 3)


def test_where_few_images_differ_the_sentence_says_that_they_are_too_few():
    few = replace(made("oracle - none", 0.01, -0.03, 0.07, 1.0), detectable=None)
    paired = replace(few.by_seed[0], only_first=2, only_second=1)
    first, *_ = answer_sentences(wrapped(replace(few, by_seed=(paired,))))
    assert "; they differ on 3 images, too few to say what would have shown)" in first


def wrapped(oracle_none: Comparison) -> Answer:
    return Answer(classifier_objective="adversarial", oracle_none=oracle_none, learned_none=None, oracle_learned=None)


def test_the_rule_for_the_subject_of_the_answer_sees_no_result():
    best_first = [
        Condition("trades", "trades", "learned", "learned"),
        Condition("trades", "natural", "learned", "learned"),
        Condition("trades", "adversarial", "learned", "learned"),
        Condition("trades", "trades", "oracle", "learned"),
        Condition("trades", "natural", "oracle", "learned"),
        Condition("trades", "trades", "learned-hard", "learned-hard"),
        Condition("trades", "trades", "learned", "learned-hard"),
    ]
    assert sorted(dict.fromkeys(best_first[::-1]), key=primary_rank) == best_first
    for number in range(len(best_first)):
        of_subject = [
            replace(made(name, value, 0.0, 0.1, 0.5), **{side: one})
            for name, side in (("learned - none", "first"), ("oracle - learned", "second"))
            # not strict: the better ones are left out, one more each time
            for value, one in zip(np.linspace(0.9, 0.1, len(best_first)), best_first[number:], strict=False)
        ]
        trades = [replace(one, first=one.first._replace(classifier_objective="trades")) for one in of_subject[::-1]]
        answer = answered("trades", trades)
        assert answer.learned_none.first == answer.oracle_learned.second == best_first[number]


def test_a_system_that_lacks_one_of_the_comparisons_is_not_mixed_with_another():
    learned, hard = Condition("a", "natural", "learned", "learned"), Condition("a", "natural", "learned-hard", "learned-hard")
    none = replace(made("learned-hard - none", 0.1, 0.0, 0.2, 0.5), first=hard)
    oracle = replace(made("oracle - learned", 0.1, 0.0, 0.2, 0.5), first=condition("oracle")._replace(classifier_objective="a"))
    answer = answered("a", [none, replace(oracle, second=learned)])
    assert (answer.learned_none, answer.oracle_learned.second) == (None, learned)
    (sentence,) = answer_sentences(answer)
    assert sentence.count("learned masks (classifier trained with them, natural segmenter)") == 1


def test_a_p_value_is_never_zero_nor_rounded_up_to_the_level_that_it_stays_below():
    assert [p_text(value) for value in (0.0, 0.0004, 0.031, 0.6)] == ["< 0.001", "< 0.001", "0.031", "0.60"]
    assert [p_text(value) for value in (0.0496, 0.04996, 0.049999, 0.05, 0.0504)] == [
        "0.0496",
        "0.04996",
        "0.049999",
        "0.05",
        "0.0504",
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.1, 0.1), "for both learned systems (each +10.0 points)."),
        ((0.1, 0.1, 0.1), "for all 3 learned systems (each +10.0 points)."),
        (
            (0.1, 0.2, -0.1),
            "for 2 of the 3 learned systems (best: +20.0 points, learned masks, classifier trained with them, natural",
        ),
        ((0.1, -0.1), "for this one alone of the 2 learned systems (best: +10.0 points"),
    ],
)
def test_the_other_learned_systems_are_counted_and_the_best_and_worst_named(values, text):
    every = tuple(made("learned - none", value, value - 0.05, value + 0.05, 0.001) for value in values)
    answer = replace(wrapped(every[0]), oracle_none=None, learned_none=every[0], all_learned=every)
    assert text in answer_sentences(answer)[-1]


def test_a_training_that_nobody_recorded_is_named_so() -> None:
    assert classifier(NOT_RECORDED) == "Classifier whose training is not recorded"
