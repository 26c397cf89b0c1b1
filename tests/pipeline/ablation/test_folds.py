"""Cross-validation: every image is tested once by systems that never saw its group, and the folds are pooled."""

import json
import statistics
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import arms, decompositions, jobs
from pipeline.ablation.job import Fold
from pipeline.ablation.pooled_job import PooledJob
from pipeline.ablation.training_jobs import TrainingJob
from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.errors import ConfigError
from pipeline.evaluation.records import read_records
from pipeline.reporting.reading import read_study
from pipeline.runs.directory import read_run

EPSILON = 8 / 255
WORDS = [
    "data.image_size=16",
    "data.num_train=36",
    "data.num_val=12",
    "data.num_test=12",
    "data.num_classes=3",
    "workers=0",
    "folds=3",
    "classifier.width=4",
    "masks=[{train: none, test: none}]",
    "classifier_objectives=[natural]",
    "classifier_trainer.epochs=1",
    "attack.threat.epsilons=[4/255,8/255]",
    "primary_epsilon=null",
    "attack.attacks={pgd: {kind: class, search: pgd, num_steps: 2}}",
    "attack.measurements={nearest: {kind: minimum-norm, norm: l2, num_steps: 5}}",
    "evaluation.max_images=null",
    "evaluation.part_size=8",
    "evaluation.sanity={objectives: [natural], sources: [none], images: 4}",
    "degradation=null",
    "decomposition=null",
    "silhouette=true",
]


def ablate(directory: Path, *more: str) -> int:
    return main(["ablate", f"run={directory / 'run'}", f"prepared={directory / 'prepared'}", *WORDS, *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("folds")
    assert ablate(directory) == 0
    return directory


def evaluations(directory: Path) -> list[Path]:
    found = sorted((directory / "run" / "store" / "evaluations").iterdir())
    assert len(found) == 3
    return found


def config(**changes: str) -> AblateConfig:
    return load_config("ablate", AblateConfig, [f"{key}={value}" for key, value in changes.items()])


@pytest.mark.slow
def test_every_image_is_tested_exactly_once_by_stages_that_never_saw_its_group(finished: Path) -> None:
    tested: Counter[str] = Counter()
    for evaluation in evaluations(finished):
        about = read_run(evaluation).config
        trained = open_prepared(Path(read_run(Path(about["classifier_run"])).config["prepared"])).samples
        seen = set(trained.filter(trained["split"] != "test")["group"])
        records = read_records(evaluation)
        assert not seen & set(records["group"])
        tested.update(records["sample_id"].unique())
    assert tested == Counter(open_prepared(finished / "prepared").samples["sample_id"])


@pytest.mark.slow
def test_the_pooled_estimates_are_those_counted_by_hand(finished: Path) -> None:
    """Image by image, without a data frame."""
    fell: dict[str, bool] = {}
    right: dict[str, bool] = {}
    for evaluation in evaluations(finished):
        for record in read_records(evaluation).iter_rows(named=True):
            name = record["sample_id"]
            right[name] = record["clean_prediction"] == record["label"]
            fell[name] = fell.get(name, not right[name]) or record["adversarial_prediction"] != record["label"]
    (arm,) = json.loads((finished / "run" / "ablation.json").read_text())["arms"]
    summary = json.loads((finished / "run" / arm["evaluation"] / "summary.json").read_text())
    assert arm["name"] == "natural classifier, masks none to none, seed 0"
    assert summary["clean_accuracy"]["value"] == pytest.approx(sum(right.values()) / 60)
    last = summary["curve"][-1]
    assert last["epsilon"] == pytest.approx(EPSILON)
    assert last["robust_accuracy"]["n"] == 60
    assert last["robust_accuracy"]["value"] == pytest.approx(sum(not value for value in fell.values()) / 60)
    of_folds = [json.loads((evaluation / "summary.json").read_text())["curve"][-1] for evaluation in evaluations(finished)]
    widths = [point["robust_accuracy"]["high"] - point["robust_accuracy"]["low"] for point in of_folds]
    assert last["robust_accuracy"]["high"] - last["robust_accuracy"]["low"] < min(widths)


@pytest.mark.slow
def test_what_is_measured_beside_the_attacks_is_pooled_as_counted_by_hand(finished: Path) -> None:
    distances: dict[str, float] = {}
    for evaluation in evaluations(finished):
        for part in sorted((evaluation / "measurements").glob("*.parquet")):
            for row in pl.read_parquet(part).iter_rows(named=True):
                assert row["sample_id"] not in distances
                distances[row["sample_id"]] = row["value"]
    (arm,) = json.loads((finished / "run" / "ablation.json").read_text())["arms"]
    pooled = finished / "run" / arm["evaluation"]
    found = json.loads((pooled / "measurements.json").read_text())["figures"]
    (median,) = [figure["estimate"] for figure in found if figure["unit"] == "distance"]
    assert len(distances) == median["n"] == 60
    assert median["value"] == pytest.approx(statistics.median_low(distances.values()))
    assert sorted(file.name for file in (pooled / "examples").iterdir()) == ["00-000.npz"]


@pytest.mark.slow
def test_silhouettes_are_pooled_by_the_number_of_their_images(finished: Path) -> None:
    right = total = 0.0
    for run in sorted((finished / "run" / "store" / "silhouettes").iterdir()):
        n = len(open_prepared(Path(read_run(run).config["prepared"])).indices("test"))
        right, total = right + n * json.loads((run / "result.json").read_text())["test"]["accuracy"], total + n
    (entry,) = json.loads((finished / "run" / "ablation.json").read_text())["silhouette"]
    assert (entry["n"], entry["accuracy"]) == (60, pytest.approx(right / total))
    assert total == 60


@pytest.mark.slow
def test_of_each_sanity_check_the_worst_fold_stands_in_the_report(finished: Path) -> None:
    order = ["PASS", "SKIP", "FAIL"]
    worst: dict[str, int] = {}
    for evaluation in evaluations(finished):
        for check in json.loads((evaluation / "sanity.json").read_text())["checks"]:
            worst[check["name"]] = max(worst.get(check["name"], 0), order.index(check["outcome"]))
    (arm,) = read_study(finished / "run").arms
    assert arm.checks is not None
    assert {check.name: order.index(check.outcome) for check in arm.checks} == worst
    assert all(check.finding.startswith("fold ") for check in arm.checks)


@pytest.mark.slow
def test_a_fold_alone_makes_what_the_whole_then_reuses(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What launchers do: each job a fold, then all of it once more."""
    share = [f"store={finished / 'run' / 'store'}", f"prepared={finished / 'prepared'}", f"run={tmp_path / 'run'}"]
    assert ablate(tmp_path, *share, "only_folds=[1]") == 0
    shown = capsys.readouterr().out
    assert "reused     natural classifier, masks none to none, seed 0, fold 2 of 3" in shown
    assert "new        natural classifier, masks none to none, seed 0, 1 fold" in shown
    assert "to do: 1 of 4 jobs" in shown
    (attacked,) = [path for path in evaluations(finished) if "-fold2of3-" in path.name]
    assert f"n={read_records(attacked)['sample_id'].n_unique()} images an arm" in shown
    assert ablate(finished) == 0
    assert "to do: 0 of 10 jobs" in capsys.readouterr().out


def test_the_grid_is_that_without_folds_once_a_fold_and_pooled() -> None:
    plain, crossed = config(), config(folds="4")
    assert all(
        isinstance(arm, PooledJob) and [one.fold for one in arm.folds] == [Fold(i, 4) for i in range(4)] for arm in arms(crossed)
    )
    assert [arm.name for arm in arms(crossed)] == [arm.name for arm in arms(plain)]
    assert len(decompositions(crossed)) == 4 * len(decompositions(plain)) > 0
    stages = [[job for job in jobs(one) if isinstance(job, TrainingJob)] for one in (plain, crossed)]
    assert len(stages[1]) == 4 * len(stages[0])
    assert len({job.title for job in jobs(crossed)}) == len(jobs(crossed))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["folds=1"], r"folds: Input should be greater than or equal to 2"),
        (["only_folds=[0]"], r"only_folds: names a fold that there is not; folds=None"),
        (["folds=3", "only_folds=[0,3]"], r"only_folds: names a fold that there is not; folds=3 are counted from 0"),
        (["folds=3", "only_folds=[1,1]"], r"only_folds: names the same thing twice"),
        (["folds=3", "evaluation.split=val"], r"evaluation\.split: with folds every image is tested once"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_config("ablate", AblateConfig, words)
