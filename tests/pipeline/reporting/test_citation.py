"""What a paper can take over: every figure in it is the run's."""

import html
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.reporting.citation import citation, methods
from pipeline.reporting.document import compose
from pipeline.reporting.reading import read_study
from pipeline.reporting.templating import latex


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    run = tmp_path_factory.mktemp("cited") / "run"
    arms = simulated.ARMS[3:5]
    return read_study(simulated.write_ablation(run, num_images=60, arms=arms, with_gallery=False, per_group=3))


def test_the_methods_name_threat_attacks_sample_and_intervals(study):
    text = " ".join(methods(study))
    assert "on 60 test images of the data set simulated (5 classes) from 20 photographs or tracks." in text
    assert "L-infinity perturbations up to 8/255" in text
    assert "at epsilon 2/255, 4/255 and 8/255." in text
    assert "white-box" in text
    assert "apgd-margin (class, 20 steps); guided-collapse (class, 20 steps)" in text
    assert "a bootstrap over photographs or tracks and trainings, of shares never within Wilson's" in text
    assert "Tango's score interval. Every system was trained from 2 seeds." in text
    assert "Diagnostics of the attacks on 4 of 4 systems: 12 passed, 0 failed." in text
    assert "{" not in text
    assert "not trusted" not in text


def test_the_methods_say_where_searches_were_in_bfloat16(study):
    rough = [replace(arm, about={**arm.about, "config": {**arm.about["config"], "precision": "bf16"}}) for arm in study.arms]
    assert "bfloat16" not in " ".join(methods(study))
    assert "upper bound. Gradients of the searches were computed in bfloat16, every verdict in float32." in " ".join(
        methods(replace(study, arms=tuple(rough)))
    )


def test_the_methods_name_the_systems_that_no_figure_is_trusted_of(simulated, tmp_path):
    hard = [arm for arm in simulated.ARMS if arm[3] in ("none", "learned-hard")]
    text = " ".join(methods(read_study(simulated.write_ablation(tmp_path / "run", num_images=60, arms=hard, with_gallery=False))))
    assert "24 passed" not in text
    assert (
        "6 systems: 18 passed, 2 failed. Figures of these systems are not trusted: Adversarially trained classifier; masks in"
        in text
    )
    assert "in testing: learned-hard (natural segmenter) (Square against white-box)." in text


def test_methods_and_entry_are_files_that_a_paper_takes_in(reported):
    """The text is the page's; LaTeX says the same with its own letters escaped."""
    page = html.unescape((reported / "index.html").read_text())
    parts = (reported / "methods.txt").read_text().splitlines()
    assert len(parts) == 3
    assert all(f"<p>{part}</p>" in page for part in parts)
    assert (reported / "methods.tex").read_text() == "".join(f"{latex(part)}\n" for part in parts)
    assert "95 \\% percentile intervals" in (reported / "methods.tex").read_text()
    assert (reported / "cite.bib").read_text().startswith("@software{foreguard,")


def test_the_citation_file_has_the_version_of_the_package():
    root = Path(__file__).parents[3]
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((root / "CITATION.cff").read_text())["version"] == version


def test_one_training_has_the_intervals_of_one_training_and_single_images_need_no_groups(study):
    once = replace(study, arms=tuple(arm for arm in study.arms if arm.seed == 0))
    assert "Wilson score intervals, at the effective number of images" in " ".join(methods(once))
    alone = [replace(arm, checks=None, records=arm.records.with_columns(group="sample_id")) for arm in once.arms]
    text = " ".join(methods(replace(once, arms=tuple(alone))))
    assert "Wilson score intervals. Every system was trained once." in text
    assert "photographs" not in text
    assert "No diagnostics of the attacks were made." in text


@pytest.mark.parametrize(("only", "told"), [(None, "each of 5 folds"), ([1, 3], "each of 2 of the 5 folds")])
def test_the_methods_say_that_figures_are_of_a_cross_validation(study, only, told):
    """Every figure pools as many systems as there are folds: none of them was trained once."""
    config = {**study.about["config"], "folds": 5, "only_folds": only}
    text = " ".join(methods(replace(study, about={**study.about, "config": config})))
    assert f"trained from 2 seeds in {told} of a cross-validation, without its test images." in text


def test_a_citation_names_version_commit_year_and_data_of_the_run(study):
    forms = dict(citation(study))
    for text in (forms["Text"], forms["BibTeX"]):
        for part in ("0.1.0", "0" * 12, "2025", "f" * 12, "simulated"):
            assert part in text
    assert forms["BibTeX"].count("{") == forms["BibTeX"].count("}")
    assert "1911.11946" in forms["The question comes from"]


def test_the_name_of_an_experiment_cannot_break_the_bibtex_entry(study):
    text = dict(citation(replace(study, name="50 % {of} \\input{x}")))["BibTeX"]
    note = re.search(r"note = \{(.*)\},", text)[1]
    assert "50 \\% \\{of\\} \\textbackslash{}input" in note


@pytest.mark.parametrize(
    ("knowledge", "told"), [("white-box", "knows all of it changes"), ("hidden-seed", "but the seeds of random masks")]
)
def test_the_page_does_not_call_an_attacker_all_knowing_who_lacks_the_seeds(study, knowledge: str, told: str):
    def about(arm):
        attack = arm.about["config"]["attack"]
        threat = {**(attack.get("threat") or {}), "knowledge": knowledge}
        return {**arm.about, "config": {**arm.about["config"], "attack": {**attack, "threat": threat}}}

    arms = tuple(replace(arm, about=about(arm)) for arm in study.arms)
    document = compose(replace(study, arms=arms))
    assert told in document.how_to_read[0]
    assert ("seeds hidden" in document.subtitle) == (knowledge == "hidden-seed")
