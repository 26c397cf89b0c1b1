"""The table of what was measured, from observations made by hand beside simulated runs."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.attacks.measurements import Backgrounds, Corruption, Corruptions, MinimumNorm
from pipeline.config import to_plain
from pipeline.errors import RunError
from pipeline.evaluation.examples import EXAMPLES, Example, read_examples
from pipeline.evaluation.measured import MEASURED, MeasurementReport, figures
from pipeline.evaluation.measuring import MEASUREMENTS, OBSERVATIONS
from pipeline.evaluation.records import Unit, write_table
from pipeline.reporting.data import Study
from pipeline.reporting.document import compose
from pipeline.reporting.gallery import png_uri
from pipeline.reporting.measured import measured_sections
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs

SUITE = {
    "nearest": MinimumNorm(epsilons=(0.02,)),
    "corruptions": Corruptions(corruptions=(Corruption.FOG, Corruption.JPEG), severities=(1, 2)),
    "backgrounds": Backgrounds(),
}
IMAGES = 10


def observations(wrong: int, distance: float) -> pl.DataFrame:
    """Ten images, of which the first ``wrong`` are wrong wherever images are changed; all are at one distance."""
    rows = []
    for name, spec in SUITE.items():
        for condition in spec.conditions():
            untouched = condition.name in ("clean", "original")
            for image in range(IMAGES):
                rows.append(
                    {
                        "sample_id": f"s{image}",
                        "group": f"s{image}",
                        "label": 0,
                        "system": "made up",
                        "mask_source": "made up",
                        "measurement": name,
                        "kind": spec.kind,
                        "threat": spec.threat,
                        "condition": condition.name,
                        "level": condition.level,
                        "claim": condition.claim.value,
                        "counted": True,
                        "prediction": 0,
                        "correct": untouched or image >= wrong,
                        "value": distance if name == "nearest" else None,
                        "mask_iou": 0.5,
                        "seconds": 0.0,
                        "seed": 0,
                    }
                )
    return pl.DataFrame(rows, schema=OBSERVATIONS)


def example(measurement: str, condition: str, level: float, *, prediction: str = "b") -> Example:
    pixels = np.full((8, 8, 3), int(50 * level), dtype=np.uint8)
    return Example(
        measurement=measurement,
        kind=SUITE[measurement].kind,
        condition=condition,
        level=level,
        sample_id="s1",
        label="a",
        prediction=prediction,
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        shown=pixels,
        mask=np.full((8, 8), 255, dtype=np.uint8),
    )


@pytest.fixture
def measured(simulated: ModuleType, tmp_path: Path) -> Path:
    run = simulated.write_ablation(tmp_path / "ablation", num_images=20, seeds=(0,), arms=simulated.ARMS[:3], with_gallery=False)
    for number, (wrong, distance) in enumerate([(4, 0.01), (1, 0.03), (2, 0.02)]):
        path = run / "store" / f"evaluation-{number:02d}-seed0"
        table = observations(wrong, distance)
        write_table(path / MEASUREMENTS, Unit(0, 0, 0), table)
        MeasurementReport(figures=tuple(figures(table, SUITE))).write(path / MEASURED)
    return run


def test_every_measurement_has_a_table_with_a_row_for_each_system(measured: Path) -> None:
    sections = measured_sections({"": read_study(measured)})
    assert [section.name for section in sections] == ["measured-minimum-norm", "measured-corruptions", "measured-backgrounds"]
    nearest, corruptions, backgrounds = tables = [table for section in sections for table in section.tables]
    assert [table.name for table in tables] == ["measured-nearest", "measured-corruptions", "measured-backgrounds"]
    assert [table.num_rows for table in tables] == [3, 3, 3]
    medians = nearest.tidy.filter(pl.col("figure") == "median distance")
    assert dict(zip(medians["test_masks"], medians["value"], strict=True)) == {"none": 0.01, "oracle": 0.03, "learned": 0.02}
    assert set(medians["claim"]) == {"upper estimate"}
    gaps = backgrounds.tidy.filter(pl.col("figure") == "BG-gap")
    assert gaps["value"].to_list() == [0, 0, 0]
    errors = corruptions.tidy.filter(pl.col("figure") == "mean corruption error")
    assert dict(zip(errors["test_masks"], errors["value"], strict=True)) == {"none": 1, "oracle": 1 / 4, "learned": 2 / 4}
    assert "fog: accuracy" in corruptions.tidy["figure"].to_list()
    assert all("fog" not in column.label for column in corruptions.columns)


def test_several_runs_stand_in_one_table_and_are_held_against_the_one_without_masks(measured: Path) -> None:
    runs = {f"run {number}": read_study(measured / "store" / f"evaluation-{number:02d}-seed0") for number in range(3)}
    corruptions = measured_sections(runs)[1].tables[0]
    assert [heading.split(":")[0] for heading, _ in corruptions.groups] == list(runs)
    errors = corruptions.tidy.filter(pl.col("figure") == "mean corruption error")
    assert dict(zip(errors["run"], errors["value"], strict=True)) == {"run 0": 1, "run 1": 1 / 4, "run 2": 2 / 4}
    assert "measured-corruptions" in [section.name for section in compose_runs(list(runs.values())).sections]


def test_runs_that_were_measured_under_other_conditions_are_a_warning(measured: Path) -> None:
    """Accuracy under all corruptions, or up to a radius, is one of those that were tried."""
    study, settings = read_study(measured), {name: to_plain(spec) for name, spec in SUITE.items()}

    def run(changes: dict[str, Any]) -> Study:
        config = {"attack": {"measurements": {**settings, **changes}}}
        return replace(study, arms=tuple(replace(arm, about={**arm.about, "config": config}) for arm in study.arms))

    def warnings(changes: dict[str, Any]) -> list[str | None]:
        return [section.warning for section in measured_sections({"one": run({}), "other": run(changes)})]

    assert warnings({}) == [None] * 3
    assert warnings({"nearest": {**settings["nearest"], "epsilons": [0.5]}}) == [None] * 3
    found = warnings({"corruptions": {**settings["corruptions"], "severities": [5]}})
    assert found[::2] == [None, None]
    assert found[1] is not None
    assert found[1].startswith("corruptions: other settings than in one in other (severities): ")


def test_a_run_with_a_system_without_masks_is_held_against_its_own(measured: Path, tmp_path: Path) -> None:
    other = shutil.copytree(measured, tmp_path / "other")
    better = other / "store" / "evaluation-00-seed0"
    write_table(better / MEASUREMENTS, Unit(0, 0, 0), observations(8, 0.01))
    runs = {"one": read_study(measured), "other": read_study(other)}
    for order in (["one", "other"], ["other", "one"]):
        tidy = measured_sections({name: runs[name] for name in order})[1].tables[0].tidy
        errors = tidy.filter(pl.col("figure") == "mean corruption error", pl.col("test_masks") == "learned")
        assert dict(zip(errors["run"], errors["value"], strict=True)) == {"one": 2 / 4, "other": 2 / 8}


def test_what_is_called_alike_under_another_norm_has_a_table_of_its_own(measured: Path, tmp_path: Path) -> None:
    other = shutil.copytree(measured, tmp_path / "other")
    for path in other.glob(f"store/*/{MEASURED}"):
        report = MeasurementReport.read(path)
        renamed = (replace(one, threat="l2") if one.measurement == "nearest" else one for one in report.figures)
        MeasurementReport(figures=tuple(renamed)).write(path)
    nearest = measured_sections({"one": read_study(measured), "other": read_study(other)})[0]
    assert [(table.name, table.num_rows) for table in nearest.tables] == [("measured-nearest-linf", 3), ("measured-nearest-l2", 3)]


def test_without_an_error_to_divide_by_there_is_no_mean_corruption_error_and_a_report_all_the_same(measured: Path) -> None:
    faultless = measured / "store" / "evaluation-00-seed0"
    write_table(faultless / MEASUREMENTS, Unit(0, 0, 0), observations(0, 0.01))
    tables = [table for section in measured_sections({"": read_study(measured)}) for table in section.tables]
    assert "mean corruption error" not in [figure for table in tables for figure in table.tidy["figure"]]


def test_the_page_has_the_section_where_something_was_measured_and_only_there(measured: Path, ablation: Path) -> None:
    assert "measured-corruptions" in [section.name for section in compose(read_study(measured)).sections]
    assert measured_sections({"": read_study(ablation)}) == ()


def test_the_strongest_level_of_every_condition_is_shown_as_the_learned_system_saw_it(measured: Path) -> None:
    learned = measured / "store" / "evaluation-02-seed0"
    examples = [example("corruptions", "fog", 1), example("corruptions", "fog", 2), example("nearest", "nearest", 0, prediction="")]
    for number, one in enumerate(examples):
        one.write(learned / EXAMPLES / f"{number:02d}-000.npz")
    assert [(one.condition, one.level, one.shown.tolist()) for one in read_examples(learned)] == [
        (one.condition, one.level, one.shown.tolist()) for one in examples
    ]
    nearest, corruptions, backgrounds = measured_sections({"": read_study(measured)})
    assert [picture.caption for picture in corruptions.pictures] == ["a, as it is", "corruptions, fog 2: b", "seen through"]
    assert corruptions.pictures[1].uri == png_uri(examples[1].shown)
    assert nearest.pictures[1].caption == "nearest, nearest: no answer"
    assert backgrounds.pictures == ()
    assert "in testing: learned" in corruptions.intro
    page = compose(read_study(measured))
    assert sum(len(section.pictures) for section in page.sections) == 6
    (learned / EXAMPLES / "00-000.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"00-000\.npz: damaged"):
        measured_sections({"": read_study(measured)})
