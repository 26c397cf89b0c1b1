"""A damaged file of a run is one clear line: nothing of it reaches a table, and nothing ends in a traceback."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import RunError
from pipeline.reporting.data import Condition
from pipeline.reporting.reading import read_study
from pipeline.runs.files import write_sealed


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    return simulated.write_ablation(path, num_images=20, seeds=(0,), arms=simulated.ARMS[3:7], with_gallery=False)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def refusal(run: Path) -> str:
    with pytest.raises(RunError) as error:
        read_study(run)
    message = str(error.value)
    assert "\n" not in message
    return message


def first_evaluation(run: Path) -> Path:
    return run / json.loads((run / "ablation.json").read_text())["arms"][0]["evaluation"]


def change(path: Path, **changes: object) -> None:
    """Change a file as our own code would have written it."""
    content = json.loads(path.read_text())
    write_sealed(path, content | changes, version=content["format"])


SILHOUETTE = {"seed": 0, "split": "test", "accuracy": 0.5, "n": 20}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"config": None}, "config"),
        ({"config": []}, "config"),
        ({"config": {"primary_epsilon": "8/255"}}, "config.primary_epsilon"),
        ({"config": {"primary_epsilon": True}}, "config.primary_epsilon"),
        ({"config": {"decomposition": 5}}, "config.decomposition"),
        ({"decomposition": 3}, "decomposition"),
        ({"silhouette": 3}, "silhouette"),
        ({"silhouette": [{key: value for key, value in SILHOUETTE.items() if key != "split"}]}, "silhouette.0.split"),
        ({"silhouette": [SILHOUETTE | {"accuracy": None}]}, "silhouette.0.accuracy"),
        ({"silhouette": [SILHOUETTE | {"accuracy": 2}]}, "silhouette.0.accuracy"),
        ({"silhouette": [SILHOUETTE | {"n": 0}]}, "silhouette.0.n"),
        ({"arms": [{"name": "a"}]}, "arms.0.role"),
        ({"experiment": None}, "experiment"),
    ],
)
def test_a_damaged_ablation_is_named_by_its_key(run: Path, changes: dict[str, object], where: str) -> None:
    change(run / "ablation.json", **changes)
    message = refusal(run)
    assert message.startswith(f"{run / 'ablation.json'}: damaged ({where}: ")
    assert message.endswith("; run ablate again with resume=true")


def test_an_arm_that_is_listed_twice_is_refused(run: Path) -> None:
    arms = json.loads((run / "ablation.json").read_text())["arms"]
    change(run / "ablation.json", arms=[*arms, arms[0] | {"name": "the same"}])
    assert "damaged (the arm the same is listed twice)" in refusal(run)


@pytest.mark.parametrize("key", ["data", "split", "norm", "region", "masks", "trained_masks"])
def test_a_summary_lacks_nothing(run: Path, key: str) -> None:
    change(first_evaluation(run) / "summary.json", **{key: None})  # a choice of types is named behind it
    assert f"summary.json: damaged ({key}" in refusal(run)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config": None}, "damaged (config: "),
        ({"config": {}}, "damaged (config.classifier_run: field required)"),
        ({"inputs": []}, "damaged (inputs: "),
        ({"provenance": None}, "damaged (provenance: "),
    ],
)
def test_how_an_evaluation_was_made_is_whole(run: Path, changes: dict[str, object], line: str) -> None:
    evaluation = first_evaluation(run)
    change(evaluation / "run.json", **changes)
    for path in (run, evaluation):
        assert f"run.json: {line}" in refusal(path)


def test_sanity_checks_at_another_epsilon_than_the_headline_are_none(run: Path) -> None:
    """Another experiment has made them anew, of an evaluation that both share."""
    before = read_study(run).arms
    change(first_evaluation(run) / "sanity.json", epsilon=4 / 255)
    after = read_study(run).arms
    assert [arm.checks is None for arm in before] == [False] * 4
    assert [arm.checks is None for arm in after] == [True, False, False, False]
    assert read_study(first_evaluation(run)).arms[0].checks == before[0].checks


def test_sanity_checks_have_an_outcome(run: Path) -> None:
    change(first_evaluation(run) / "sanity.json", checks=[{"name": "a", "outcome": "PERHAPS", "finding": "b"}])
    assert "sanity.json: damaged (checks.0.outcome: " in refusal(run)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda rows: rows.head(0), "damaged (it holds no image)"),
        (lambda rows: rows.cast({"epsilon": pl.String}), "of another version or damaged (columns epsilon)"),
        (
            lambda rows: rows.drop("group", "both_attack_robust"),
            "of another version or damaged (columns both_attack_robust, group)",
        ),
        (lambda rows: rows.filter(pl.col("epsilon") < 0.03), "damaged (it holds nothing at 8/255 of arm, seed 0)"),
    ],
)
def test_a_damaged_decomposition_is_refused_with_the_remedy(run: Path, damage, line: str) -> None:
    path = run / "decomposition.parquet"
    damage(pl.read_parquet(path)).write_parquet(path)
    assert refusal(run) == f"{path}: {line}; run ablate again with resume=true"


def test_a_decomposition_that_is_cut_off_is_one_line(run: Path) -> None:
    path = run / "decomposition.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: missing or damaged (" in refusal(run)


@pytest.mark.parametrize(
    ("masks", "uses"),
    [("learned", True), ("learned-hard", True), ("frozen", True), ("none", False), ("oracle", False), ("shifted", False)],
)
def test_the_mask_of_a_segmenter_is_known_by_its_name(masks: str, uses: bool) -> None:
    assert Condition("natural", "natural", "oracle", masks).uses_segmenter is uses
