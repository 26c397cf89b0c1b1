"""A headline that may not be believed is not printed as an answer; which one may, and why, is said beside it."""

from dataclasses import replace

import polars as pl
import pytest

from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.reporting.commands import ReportConfig, files, report
from pipeline.reporting.data import Study
from pipeline.reporting.document import compose
from pipeline.reporting.reading import read_study
from pipeline.reporting.trust import Verdict

FAILED = Check(name="Square against white-box", outcome=Outcome.FAIL, finding="3 of 16 fell", advice="put square into the suite")
SKIPPED = Check(name="soft-to-hard transfer", outcome=Outcome.SKIP, finding="the gate is soft")


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory) -> Study:
    """Systems without mask, with the oracle's and with learned masks; another one with learned masks is not in the answer."""
    run = tmp_path_factory.mktemp("trust") / "run"
    arms = [simulated.ARMS[number] for number in (3, 4, 6, 5)]
    return read_study(simulated.write_ablation(run, num_images=60, seeds=(0, 1), arms=arms, with_gallery=False))


def changed(study: Study, train: str, test: str, **changes: object) -> Study:
    """One system otherwise, under its second seed."""
    arms = [
        replace(arm, **changes) if (arm.condition.train_masks, arm.condition.test_masks, arm.seed) == (train, test, 1) else arm
        for arm in study.arms
    ]
    assert sum(one is not other for one, other in zip(arms, study.arms, strict=True)) == 1
    return replace(study, arms=tuple(arms))


def test_a_headline_whose_systems_passed_every_check_is_trusted_and_printed(study):
    (answer,) = compose(study).answers
    assert answer.trust.verdict is Verdict.TRUSTED
    assert answer.trust.reasons == ()
    assert len(answer.sentences) == 3
    assert len(answer.figures) == 3


@pytest.mark.parametrize("masks", ["learned", *(pytest.param(one, marks=pytest.mark.slow) for one in ("none", "oracle"))])
def test_a_failed_check_of_any_system_that_is_compared_takes_the_answer_away(study, masks):
    doubtful = changed(study, masks, masks, checks=(FAILED,))
    document = compose(doubtful)
    (answer,) = document.answers
    assert answer.trust.verdict is Verdict.NOT_TRUSTED
    (reason,) = answer.trust.reasons
    assert reason.startswith(masks)
    assert reason.endswith("Square against white-box")
    assert (answer.sentences, answer.figures, answer.note) == ((), (), None)
    page = files(document)["index.html"].decode()
    assert "Not trusted</span> because of" in page
    assert "raises robust accuracy" not in page
    assert "put square into the suite" in page


def test_a_failed_check_of_a_system_that_is_not_compared_leaves_the_answer(study):
    document = compose(changed(study, "oracle", "learned", checks=(FAILED,)))
    assert document.answers[0].trust.verdict is Verdict.TRUSTED
    assert [failure.name for failure in document.failures] == ["Square against white-box"]


@pytest.mark.parametrize("checks", [(FAILED,), (SKIPPED,), None])
def test_an_answer_that_is_trusted_counts_no_system_that_failed_a_check_or_was_not_checked(simulated, tmp_path, checks):
    """One of three learned systems is doubtful: the sentence about all of them neither counts it nor has its figure."""
    arms = [simulated.ARMS[number] for number in (3, 4, 6, 5, 7)]
    run = simulated.write_ablation(tmp_path / "run", num_images=60, seeds=(0, 1), arms=arms, with_gallery=False)
    whole = read_study(run)
    sentence = compose(whole).answers[0].sentences[-1]
    assert "3 learned systems (best" in sentence
    few = changed(whole, "oracle", "learned", checks=checks)
    (answer,) = compose(few).answers
    assert answer.trust.verdict is Verdict.TRUSTED
    assert "trained with oracle masks" not in answer.sentences[-1]
    assert "learned systems that failed no check (" in answer.sentences[-1]
    alone = replace(few, arms=tuple(arm for arm in few.arms if arm.condition.segmenter_objective != "adversarial"))
    assert len(compose(alone).answers[0].sentences) == 2


def test_a_constant_predictor_takes_the_answer_away_though_every_check_passed(study):
    (arm,) = (arm for arm in study.arms if arm.condition.test_masks == "none" and arm.seed == 1)
    same = {name: pl.lit(0, pl.Int64) for name in ("clean_prediction", "adversarial_prediction")}
    answer = compose(changed(study, "none", "none", records=arm.records.with_columns(**same))).answers[0]
    assert answer.trust.verdict is Verdict.NOT_TRUSTED
    assert answer.trust.reasons == ("none masks: constant predictor",)


@pytest.mark.parametrize("checks", [None, (), (SKIPPED,)])
def test_a_system_that_was_not_checked_is_named_and_takes_the_answer_away(study, checks):
    answer = compose(changed(study, "oracle", "oracle", checks=checks)).answers[0]
    assert answer.trust.verdict is Verdict.NOT_TRUSTED
    assert answer.trust.reasons == ("oracle masks: not checked",)
    assert (answer.sentences, answer.figures, answer.note) == ((), (), None)


def test_checks_that_attack_nothing_are_no_check_of_the_attack(study):
    passed = Check(name="batch invariance", outcome=Outcome.PASS, finding="largest change of a logit: 0")
    powerless = Check(name="Square against white-box", outcome=Outcome.SKIP, finding="without power here")
    answer = compose(changed(study, "oracle", "oracle", checks=(passed, powerless))).answers[0]
    assert answer.trust.reasons == ("oracle masks: not checked",)


def test_a_trusted_answer_says_on_how_many_images(study):
    few = Check(name="loss against steps", outcome=Outcome.PASS, finding="61% after 20 steps", figures={"images": 5})
    document = compose(changed(study, "oracle", "oracle", checks=(few,)))
    assert document.answers[0].trust.images == 5
    assert "was checked on 5 images or more" in files(document)["index.html"].decode()


def test_that_the_answers_vary_is_no_check_of_the_attack(study):
    varied = Check(name="constant predictor", outcome=Outcome.PASS, finding="the commonest answer is that to 20% of the images")
    answer = compose(changed(study, "oracle", "oracle", checks=(varied,))).answers[0]
    assert answer.trust.reasons == ("oracle masks: not checked",)


def test_a_constant_predictor_that_a_check_has_named_is_named_once(study):
    failed = Check(name="constant predictor", outcome=Outcome.FAIL, finding="all answers are one class", advice="train longer")
    (arm,) = (arm for arm in study.arms if arm.condition.test_masks == "none" and arm.seed == 1)
    same = {name: pl.lit(0, pl.Int64) for name in ("clean_prediction", "adversarial_prediction")}
    records = arm.records.with_columns(**same)
    answer = compose(changed(study, "none", "none", records=records, checks=(*arm.checks, failed))).answers[0]
    assert answer.trust.reasons == ("none masks: constant predictor",)


def test_the_terminal_says_the_verdict_and_no_answer_without_trust(simulated, tmp_path, capsys):
    arms = [simulated.ARMS[3], (*simulated.ARMS[8][:2], "learned-hard", "learned-hard", *simulated.ARMS[8][4:])]
    run = simulated.write_ablation(tmp_path / "run", num_images=20, seeds=(0,), arms=arms, with_gallery=False)
    report(ReportConfig(run=run))
    shown = capsys.readouterr().out
    assert "(not trusted because of learned-hard (natural segmenter) masks: Square against white-box): no answer" in shown
