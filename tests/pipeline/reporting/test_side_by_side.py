"""Several runs on one page: against counts done by hand, and what cannot be compared is said."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.cli.main import main
from pipeline.errors import RunError
from pipeline.evaluation.statistics import compare, holm
from pipeline.reporting import compare as compare_module
from pipeline.reporting.commands import ReportConfig, files, report
from pipeline.reporting.compare import compare_runs
from pipeline.reporting.config import CompareConfig
from pipeline.reporting.data import Study, verdicts
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs, why_not


@pytest.fixture(scope="module")
def studies(simulated, tmp_path_factory) -> list[Study]:
    """The second run's systems stand twice the epsilon, and it has a seed more; both have met the same images."""
    folder = tmp_path_factory.mktemp("runs")
    arms = simulated.ARMS[3:7]
    stronger = [(*arm[:7], arm[7] / 2, *arm[8:]) for arm in arms[:3]]
    first = simulated.write_ablation(folder / "one", num_images=60, seeds=(0,), arms=arms, with_gallery=False, experiment="one")
    other = simulated.write_ablation(
        folder / "two", num_images=60, seeds=(0, 1), arms=stronger, with_gallery=False, experiment="two"
    )
    return [read_study(first), read_study(other)]


def rows(document, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files(document)[f"tables/{name}.csv"].decode())))


def test_the_same_system_is_compared_on_the_same_images_under_the_seed_that_both_have(studies):
    found = rows(compose_runs(studies), "between-runs")
    assert len(found) == 3 * 3  # systems that both have, and epsilons
    arms = [study.by_condition("main") for study in studies]
    for epsilon in studies[0].epsilons:
        expected = {}
        for key in arms[1]:
            (ours, theirs), groups = verdicts([arms[1][key][0], arms[0][key][0]], epsilon)
            expected[key.test_masks, key.train_masks] = compare(ours, theirs, groups)
        adjusted = dict(zip(expected, holm([one.p_value for one in expected.values()]), strict=True))
        at = [row for row in found if float(row["epsilon"]) == epsilon]
        assert {(row["first"].split()[0], row["first_trained_with"]) for row in at} == set(expected)
        for row in at:
            key = row["first"].split()[0], row["first_trained_with"]
            assert (row["run"], row["other_run"], row["seeds"], row["images"]) == ("two", "one", "1", "60")
            assert float(row["difference"]) == pytest.approx(expected[key].difference.value)
            assert float(row["low"]) == pytest.approx(expected[key].difference.low)
            assert float(row["p_holm"]) == pytest.approx(adjusted[key])
    assert max(float(row["difference"]) for row in found) > 0.2


def test_all_systems_of_all_runs_stand_in_one_table_and_every_curve_names_its_run(studies):
    document = compose_runs(studies)
    headline = rows(document, "headline")
    pooled = [row for row in headline if not row["seed"]]
    assert [sum(row["run"] == name for row in pooled) for name in ("one", "two")] == [4 * 4, 3 * 4]
    page = files(document)["index.html"].decode()
    for text in ("one: Adversarially trained classifier", "two: Adversarially trained classifier"):
        assert page.count(text) >= 3  # answer, table and curve
    assert '<section id="gallery"' not in page
    assert [card.heading.split(":")[0] for card in document.answers] == ["one", "two"]


def test_other_images_are_not_compared_and_the_page_says_so(studies):
    first, other = studies
    inputs = [replace(arm, about={**arm.about, "inputs": {**arm.about["inputs"], "data set": "e" * 64}}) for arm in other.arms]
    section = compose_runs([first, replace(other, arms=tuple(inputs))]).sections[0]
    assert section.tables == ()
    assert "two and one: other images" in section.missing
    moved = [replace(arm, seed=arm.seed + 7) for arm in other.arms]
    assert "no system with a seed in common" in compose_runs([first, replace(other, arms=tuple(moved))]).sections[0].missing
    clean = [replace(arm, records=arm.records.with_columns(epsilon=pl.lit(0.0))) for arm in other.arms]
    assert why_not(replace(other, arms=tuple(clean)), first) == "no epsilon above 0 was attacked"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attack": {"attacks": {"pgd": {"kind": "class", "num_steps": 1}}}}, "two: other attacks than in one. "),
        ({"precision": "bf16"}, "two: gradients of another precision than in one. "),
    ],
)
def test_other_attacks_are_a_warning(studies, change, said):
    first, other = studies
    assert compose_runs(studies).sections[0].warning is None
    arm = other.arms[0]
    config = {**arm.about["config"], **change}
    weaker = replace(other, arms=(replace(arm, about={**arm.about, "config": config}), *other.arms[1:]))
    assert said in compose_runs([first, weaker]).sections[0].warning


def test_what_was_measured_beside_the_attacks_is_no_other_attack(studies):
    first, other = studies
    config = {**other.arms[0].about["config"], "attack": {**other.arms[0].about["config"]["attack"], "measurements": {"a": {}}}}
    more = replace(other, arms=tuple(replace(arm, about={**arm.about, "config": config}) for arm in other.arms))
    assert compose_runs([first, more]).sections[0].warning is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_difference_from_a_system_that_failed_a_check_is_not_shown_as_one_without_a_word(studies, which, monkeypatch, capsys):
    """In the report on several runs and in the terminal; a system that is not compared takes nothing away."""
    failed = Check(name="Square against white-box", outcome=Outcome.FAIL, finding="3 of 16 fell", advice="see")

    def with_failed(study: Study, test: str, train: str) -> Study:
        arms = [
            replace(arm, checks=(failed,)) if (arm.condition.test_masks, arm.condition.train_masks) == (test, train) else arm
            for arm in study.arms
        ]
        assert arms != list(study.arms)
        return replace(study, arms=tuple(arms))

    doubtful = list(studies)
    doubtful[which] = with_failed(studies[which], "oracle", "oracle")
    text = (
        "Differences from these are not to be trusted, because a check failed."
        f" {('one', 'two')[which]}: Adversarially trained classifier; masks in training: oracle; in testing: oracle: Square against"
        " white-box."
    )
    assert compose_runs(doubtful).sections[0].warning == text
    monkeypatch.setattr(compare_module, "read_study", dict(zip(map(Path, ("one", "two")), doubtful, strict=True)).get)
    (found,) = compare_runs(CompareConfig(runs=(Path("one"), Path("two"))))["comparisons"]
    assert found["caution"] == text
    assert f"BEWARE: {text}" in capsys.readouterr().out
    not_compared = with_failed(studies[0], "learned", "learned")
    assert compose_runs([not_compared, studies[1]]).sections[0].warning is None


def test_other_threat_models_are_refused(studies):
    first, other = studies
    arms = tuple(replace(arm, summary=replace(arm.summary, norm="l2")) for arm in other.arms)
    with pytest.raises(RunError, match=r"has norm 'l2', and .* 'linf': report them apart"):
        compose_runs([first, replace(other, arms=arms)])


def test_runs_of_one_name_are_told_apart_by_their_directories(studies):
    first, other = studies
    document = compose_runs([first, replace(other, name="one")])
    assert document.title == f"{first.path} and {other.path}"


def test_an_epsilon_of_one_run_alone_leaves_a_gap_in_the_table(studies):
    first, other = studies
    kept = [replace(arm, records=arm.records.filter(arm.records["epsilon"] > 0.01)) for arm in other.arms]
    table = next(table for table in compose_runs([first, replace(other, arms=tuple(kept))]).tables() if table.name == "headline")
    assert [column.label for column in table.columns[2:]] == ["Clean", "2/255", "4/255", "8/255"]
    gaps = [[cell.text == "" for cell in row[2:]] for _, rows_ in table.groups for row in rows_]
    assert gaps == [[False] * 4] * 4 + [[False, True, False, False]] * 3


def test_the_command_writes_one_report_for_several_runs(studies, tmp_path, capsys):
    report(ReportConfig(runs=tuple(study.path for study in studies), out=tmp_path / "both"))
    shown = capsys.readouterr().out
    assert "one: Adversarially trained classifier" in shown
    assert "two: Adversarially trained classifier" in shown
    assert (tmp_path / "both" / "tables" / "between-runs.tex").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "run: say run=DIRECTORY"),
        (["run=a", "runs=[a,b]", "out=c"], "run: say run=DIRECTORY"),
        (["runs=[a]", "out=c"], "runs: names fewer than two"),
        (["runs=[a,a]", "out=c"], "runs: names fewer than two"),
        (["runs=[a,b]"], "out: a report on several runs belongs to none of them"),
    ],
)
def test_a_choice_that_is_none_is_one_line(words, line, capsys):
    assert main(["report", *words]) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_differences_of_a_run_with_itself_are_zero(studies):
    first, _ = studies
    found = rows(compose_runs([first, replace(first, name="again")]), "between-runs")
    assert len(found) == 4 * 3
    assert np.allclose([float(row["difference"]) for row in found], 0)
    assert {float(row["p"]) for row in found} == {1.0}
