"""A metric is one entry: with it alone a figure stands in the page, as curves, in a table, in CSV and in LaTeX."""

import csv
import io

import numpy as np
import polars as pl
import pytest

from pipeline.reporting.commands import files
from pipeline.reporting.document import compose
from pipeline.reporting.metrics import METRICS, Metric
from pipeline.reporting.reading import read_study

TOY = Metric(
    name="toy",
    measure="far_from_the_edge",
    title="How many images are far from the edge?",
    intro="Made up for a test.",
    caption="Far in percent.",
    table="toy",
    unit="far %",
    clean_unit="far clean %",
    axis="far from the edge (%)",
    spoken="distance",
    values=lambda records, epsilon: (
        records.filter(pl.col("epsilon") == (epsilon or records["epsilon"].max()))
        .group_by("sample_id", "group")
        .agg(value=pl.col("adversarial_margin" if epsilon else "clean_margin").max() < -1)
    ),
    draws=("toy clean", "toy"),
)


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    run = tmp_path_factory.mktemp("metrics") / "run"
    return read_study(simulated.write_ablation(run, num_images=40, seeds=(0,), arms=simulated.ARMS[3:5], with_gallery=False))


@pytest.fixture(scope="module")
def reports(study):
    """The files of a report without the toy, and with it."""
    return files(compose(study)), files(compose(study, (*METRICS, TOY)))


def test_one_entry_more_stands_in_page_curves_csv_and_latex(study, reports):
    without, contents = reports
    added = {"tables/toy.csv", "tables/toy.tex", "figures/toy-adversarial.svg", "figures/toy-adversarial.pdf"}
    assert set(contents) - set(without) == added
    rows = list(csv.DictReader(io.StringIO(contents["tables/toy.csv"].decode())))
    assert len(rows) == 2 * 4  # arms, and epsilons with that of no attack
    for arm in study.arms:
        last = arm.records.filter(pl.col("epsilon") == study.epsilons[-1])
        by_hand = np.mean([max(part["adversarial_margin"]) < -1 for _, part in last.group_by("sample_id")])
        (row,) = (
            row for row in rows if row["test_masks"] == arm.condition.test_masks and float(row["epsilon"]) == study.epsilons[-1]
        )
        assert float(row["value"]) == pytest.approx(by_hand)
        assert (row["measure"], row["images"]) == ("far_from_the_edge", "40")
        for name in ("tables/toy.tex", "index.html"):
            assert f"{100 * by_hand:.1f}" in contents[name].decode()
    page = contents["index.html"].decode()
    assert '<section id="toy"' in page
    assert "How many images are far from the edge?" in page
    assert "Lines of distance over epsilon." in page


def test_nothing_else_of_a_report_depends_on_which_metrics_it_shows(reports):
    without, contents = reports
    same = [name for name in without if name not in ("index.html", "report.json")]
    assert len(same) > 10
    assert [name for name in same if without[name] != contents[name]] == []


def test_the_entries_of_the_page_have_names_of_their_own():
    for field in ("name", "measure", "table", "draws", "title"):
        assert len({getattr(metric, field) for metric in METRICS}) == len(METRICS)
