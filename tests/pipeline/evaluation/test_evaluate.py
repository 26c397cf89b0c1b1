"""``foreguard evaluate`` from the command line, on two small stages."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared
from pipeline.data.sample import Plan, Sample
from pipeline.evaluation import evaluator as attacking
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.measuring import read_observations
from pipeline.evaluation.records import read_records
from pipeline.evaluation.summary import epsilon_text
from pipeline.runs.checkpoints import (
    read_checkpoint,
)

SUITE = [
    "attack.threat.epsilons=[0, 2/255, 8/255]",
    "~attack.attacks",
    "+attack.attacks={pgd: {kind: class, search: pgd, loss: margin, num_steps: 3}, flood: {kind: mask, goal: flood, num_steps: 2}}",
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def evaluate(synthetic_set: Path, runs: Path) -> Callable[..., int]:
    def command(run: Path, *words: str, prepared: Path = synthetic_set, suite: Sequence[str] = SUITE) -> int:
        fixed = [
            f"prepared={prepared}",
            f"classifier_run={runs / 'classifier'}",
            f"run={run}",
            "accelerator=cpu",
            "part_size=16",
            "max_images=20",
        ]
        return main(["evaluate", *fixed, *suite, *words])

    return command


def records_of(run: Path) -> pl.DataFrame:
    return read_records(run).sort("sample_id", "epsilon", "attack").drop("seconds")


@pytest.fixture(scope="module")
def finished(synthetic_set: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run"
    fixed = [
        f"prepared={synthetic_set}",
        f"classifier_run={runs / 'classifier'}",
        f"run={run}",
        "accelerator=cpu",
        "part_size=16",
        "max_images=20",
    ]
    assert main(["evaluate", *fixed, *SUITE]) == 0
    return run


@pytest.mark.slow
def test_it_prints_and_writes_the_figures_of_its_records(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert evaluate(run, "sanity=true", "save_images=true", "sanity_images=4") == 0
    printed = capsys.readouterr().out
    records, summary = read_records(run), json.loads((run / "summary.json").read_text())
    assert len(records) == 20 * 3 * 2
    assert summary["masks"]["fill"] == "black"
    assert len(summary["curve"]) == 3
    for point in summary["curve"]:
        up_to = records.filter(pl.col("epsilon") <= point["epsilon"])
        fell = up_to.filter(pl.col("adversarial_prediction") != pl.col("label"))["sample_id"].n_unique()
        assert point["robust_accuracy"]["value"] == pytest.approx(1 - fell / 20)
        assert f"{100 * point['robust_accuracy']['value']:.1f} % [" in printed
    assert summary["curve"][0]["robust_accuracy"] == summary["clean_accuracy"]
    for expected in ("clean accuracy", "n=20", "epsilon 8/255", "robust accuracy", "mask IoU under attack", str(run)):
        assert expected in printed
    about = json.loads((run / "run.json").read_text())
    assert set(about["inputs"]) == {"data set", "classifier", "segmenter", "order of the attacks"}
    assert about["inputs"]["order of the attacks"] == ", ".join(about["config"]["attack"]["attacks"])
    assert about["config"]["attack"]["threat"]["epsilons"] == [0, 2 / 255, 8 / 255]
    assert {"torch", "commit"} <= set(about["provenance"])
    checks = {check["name"]: check for check in json.loads((run / "sanity.json").read_text())["checks"]}
    assert {"zero gradients, pixel path", "survivors misclassified", "successes stand", "records repeat", "copies"} <= set(checks)
    assert checks["re-scoring of saved images"]["outcome"] == "PASS"
    for check in checks.values():
        assert f"{check['outcome']}  {check['name']}" in printed


def test_a_run_is_never_overwritten_and_a_finished_one_is_only_reported_again(
    evaluate: Callable[..., int], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert evaluate(run) == 2
    assert "continue it with resume=true" in capsys.readouterr().err
    assert evaluate(run, "resume=true", "batch_size=5") == 0
    after = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["seed=1"], "seed=0, not 1"),
        (["max_images=4"], "max_images=20, not 4"),
        (["masks.source=oracle"], 'masks.source=absent, not "oracle"'),
        (["attack.threat.norm=l2"], 'attack.threat.norm="linf", not "l2"'),
    ],
)
def test_a_run_is_not_continued_as_another(
    evaluate: Callable[..., int], finished: Path, capsys: pytest.CaptureFixture[str], words: list[str], difference: str
) -> None:
    assert evaluate(finished, "resume=true", *words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert difference in line


def before_third_attack(patch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Something in the middle of an evaluation."""
    calls, run_attack = [], attacking.run_attack

    def attack(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            happens()
        return run_attack(*arguments, **named)  # type: ignore[arg-type]

    patch.setattr(attacking, "run_attack", attack)


def test_after_ctrl_c_one_line_says_how_to_go_on_and_nothing_is_lost(
    evaluate: Callable[..., int],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_third_attack(patch, interrupt)
        assert evaluate(run) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert "none lost; continue with resume=true" in line
    kept = records_of(run)
    assert 0 < len(kept) < 20 * 3 * 2
    assert evaluate(run, "resume=true") == 0
    assert_frame_equal(records_of(run), records_of(finished))


def test_records_that_vanish_while_others_are_made_are_one_line(
    evaluate: Callable[..., int],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_third_attack(patch, lambda: shutil.rmtree(run / "records"))
        assert evaluate(run) == 2
    assert "records that were made are gone" in capsys.readouterr().err.splitlines()[-1]
    assert not (run / "summary.json").exists()
    assert evaluate(run, "resume=true") == 0
    assert_frame_equal(records_of(run), records_of(finished))


MEASURED = (
    "+attack.measurements={nearest: {kind: minimum-norm, num_steps: 3, epsilons: [8/255]}, backgrounds: {kind: backgrounds}}",
    "attack.threat.epsilons=[0]",
)


@pytest.mark.slow
def test_measurements_are_printed_written_and_resumed_beside_the_attacks(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert evaluate(run, *MEASURED) == 0
    printed = capsys.readouterr().out
    for expected in ("nearest (linf)", "median distance", "(a better attack can only lower it)", "same-class: accuracy", "BG-gap"):
        assert expected in printed
    observations = read_observations(run)
    assert observations is not None
    assert len(observations) == 20 * (1 + 5)
    nearest = observations.filter(pl.col("measurement") == "nearest")
    written = {figure["label"]: figure for figure in json.loads((run / "measurements.json").read_text())["figures"]}
    beyond = written["robust accuracy at 0.03137"]
    assert beyond["estimate"]["value"] == pytest.approx((nearest["value"] > 8 / 255).mean())
    assert beyond["claim"] == "upper estimate"
    assert json.loads((run / "run.json").read_text())["inputs"]["order of the measurements"] == "nearest, backgrounds"
    # Whoever finds the summary takes the evaluation for finished.
    assert (run / "measurements.json").stat().st_mtime_ns <= (run / "summary.json").stat().st_mtime_ns
    part = sorted((run / "measurements").glob("*.parquet"))[0]
    part.unlink()
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert evaluate(run, *MEASURED, "resume=true") == 0
    after = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert read_observations(run).drop("seconds").equals(observations.drop("seconds"))  # type: ignore[union-attr]


@pytest.mark.slow
def test_everything_is_measured_on_one_small_system(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """attack=everything as it is shipped, but for the number of steps and draws."""
    suite = load_config("evaluate", EvaluateConfig, ["attack=everything", "prepared=p", "run=r", "classifier_run=c"]).attack
    shorter = [
        f"++attack.attacks.{name}.{key}=2"
        for name, spec in suite.attacks.items()
        for key in ("num_steps", "mask_steps", "class_steps", "num_queries")
        if hasattr(spec, key)
    ]
    shorter += [f"++attack.attacks.{name}.restarts=1" for name, spec in suite.attacks.items() if hasattr(spec, "restarts")]
    shorter += [f"++attack.measurements.{name}.num_steps=2" for name in suite.measurements if name.startswith("nearest")]
    shorter += ["++attack.measurements.hop-skip-jump={kind: decision-based, num_steps: 1, max_probes: 3}"]
    shorter += ["++attack.measurements.patches.attack={num_promising: 1, num_random: 1, num_steps: 2}"]
    shorter += [f"++attack.measurements.smoothing.{key}=2" for key in ("num_selection", "num_draws", "num_steps", "attack_draws")]
    run = tmp_path / "run"
    assert evaluate(run, "attack=everything", *shorter, "max_images=4", suite=()) == 0
    printed = capsys.readouterr().out
    for name in [*suite.measurements, "patch beside the object", "BG-gap", "certified accuracy", "all corruptions"]:
        assert name in printed
    observations = read_observations(run)
    assert observations is not None
    assert set(observations["measurement"]) == set(suite.measurements)
    assert observations.group_by("measurement", "condition", "level").len()["len"].unique().to_list() == [4]
    assert set(read_records(run)["attack"]) >= {"apgd-margin", "square"}


@pytest.mark.slow
def test_a_patch_is_a_threat_of_its_own(evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attack.threat={norm: patch, epsilons: [0.02, 0.05], region: background}", "~attack.attacks"]
    words += ["+attack.attacks={patch: {kind: patch, num_promising: 1, num_random: 1, num_steps: 2}}"]
    assert evaluate(tmp_path / "run", *words, "sanity=true", "sanity_images=2", "max_images=8", suite=()) == 0
    printed = capsys.readouterr().out
    assert "square patch of at most 5 % of the image on the background" in printed
    assert "one square of 5 % of the image" in printed
    records = read_records(tmp_path / "run")
    assert set(records["norm"]) == {"patch"}
    assert records["linf"].max() > 0.5


@pytest.mark.slow
def test_other_data_than_trained_on_is_refused_unless_meant(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    counts = ["data.num_train=20", "data.num_val=10", "data.num_test=10"]
    assert main(["prepare", "data=synthetic", f"prepared={other}", "data.seed=99", "workers=0", *counts]) == 0
    assert evaluate(tmp_path / "run", prepared=other) == 2
    line = capsys.readouterr().err
    assert "trained on other data" in line
    assert "allow_other_data=true" in line
    assert evaluate(tmp_path / "run", "allow_other_data=true", "masks.source=none", prepared=other) == 0
    printed = capsys.readouterr().out
    assert "masks none, fill black (trained with learned, black)" in printed
    assert "not tried: flood" in printed


def test_a_segmenter_that_was_trained_again_is_noticed(
    runs: Path, synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = tmp_path / "classifier"
    shutil.copytree(runs / "classifier", classifier)
    best = classifier / "checkpoints" / "best.json"
    checkpoint = read_checkpoint(best, "classifier")
    dataclasses.replace(checkpoint, segmenter=dataclasses.replace(checkpoint.segmenter, sha256="0" * 64)).write(best)
    words = [f"prepared={synthetic_set}", f"classifier_run={classifier}", "accelerator=cpu"]
    assert main(["evaluate", *words, f"run={tmp_path / 'run'}"]) == 2
    assert f"another segmenter than the one that {classifier} was trained with" in capsys.readouterr().err
    oracle = [f"segmenter_run={runs / 'segmenter'}", "masks.source=oracle"]
    assert main(["evaluate", *words, f"run={tmp_path / 'run'}", *oracle]) == 2
    assert "uses no segmenter" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_epsilons_are_shown_as_people_write_them() -> None:
    assert [epsilon_text(value) for value in (0.0, 8 / 255, 0.5 / 255, 0.05, 0.5, 1.0, 12.0)] == [
        "0",
        "8/255",
        "0.5/255",
        "0.05",
        "0.5",
        "1",
        "12",
    ]


@pytest.mark.slow
def test_what_was_just_trained_is_evaluated(synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = ["trainer.epochs=1", "trainer.batch_size=16", "trainer.trackers=[]", "trainer.accelerator=cpu"]
    data = f"prepared={synthetic_set}"
    assert main(["train-segmenter", data, f"run={tmp_path / 'segmenter'}", *trainer]) == 0
    hard = ["masks.source=learned-hard", f"segmenter_run={tmp_path / 'segmenter'}"]
    assert main(["train-classifier", data, f"run={tmp_path / 'classifier'}", *hard, *trainer]) == 0
    assert main(["evaluate", data, f"classifier_run={tmp_path / 'classifier'}", f"run={tmp_path / 'run'}", *SUITE]) == 0
    assert "masks learned-hard, fill grey (as trained)" in capsys.readouterr().out


def for_testing(prepared: Path, target: Path) -> Path:
    """The test images of a set alone, their classes in another order and the first one under another name."""
    dataset = open_prepared(prepared)
    classes = ("other name", *dataset.classes[:0:-1])
    renamed = {dataset.classes[0]: "other name"}
    samples = [
        Sample(
            sample_id=row["sample_id"],
            source_file="",
            group=row["group"],
            label=classes.index(renamed.get(name := dataset.classes[row["label"]], name)),
            split="test",
            box=(0.0, 0.0, 1.0, 1.0),
            mask_recipe=row["mask_recipe"],
            image=dataset.images[number],
            mask=dataset.masks[number],
        )
        for number, row in enumerate(dataset.samples.to_dicts())
        if row["split"] == "test"
    ]
    plan = Plan(classes=classes, recipe={}, files=(), items=samples, load=lambda sample: [sample])
    write_prepared(plan, target, name="folder", image_size=dataset.image_size, root=None, workers=0)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["black", "mean"])
def test_a_set_for_testing_gives_the_records_of_the_same_images_whatever_the_order_and_names_of_its_classes(
    synthetic_set: Path, evaluate: Callable[..., int], tmp_path: Path, fill: str
) -> None:
    """The fill is the mean of the images of training, which such a set has not."""
    other = for_testing(synthetic_set, tmp_path / "other")
    words = [f"masks.fill={fill}", "max_images=null", "sanity=false", "gallery_images=0"]
    assert evaluate(tmp_path / "expected", *words) == 0
    first = open_prepared(synthetic_set).classes[0]
    allowed = [*words, "allow_other_data=true", f"class_map={{other name: {first}}}"]
    assert evaluate(tmp_path / "run", *allowed, prepared=other) == 0
    assert_frame_equal(records_of(tmp_path / "run"), records_of(tmp_path / "expected"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "trained for other classes"),
        (["allow_other_data=true"], "class_map: the class 'other name' of "),
        (["allow_other_data=true", "class_map={other name: nonsense}"], "class_map: 'nonsense' is none of the classes "),
        (
            ["allow_other_data=true", "class_map={nonsense: other name}"],
            "class_map: 'nonsense' is none of the classes 'other name', ",
        ),
        (["class_map={other name: nonsense}"], "class_map: is for other data than those of training: say allow_other_data=true"),
    ],
)
def test_classes_that_do_not_match_are_one_line(
    synthetic_set: Path, evaluate: Callable[..., int], tmp_path: Path, capsys, words: list[str], line: str
) -> None:
    other = for_testing(synthetic_set, tmp_path / "other")
    assert evaluate(tmp_path / "run", *words, prepared=other) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
