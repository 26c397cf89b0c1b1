"""Arms under attackers of a part of the image, and images shown from arm to arm: the plan, a real ablation, and its page."""

import json
from pathlib import Path
from runpy import run_path

import numpy as np
import polars as pl
import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import equal_l2, mean_foreground
from pipeline.ablation.grid import arms, confined, jobs, transfers
from pipeline.ablation.table_job import read_table
from pipeline.ablation.transfer_job import TRANSFERRED, TransferJob
from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import read_records
from pipeline.reporting.data import Study
from pipeline.reporting.reading import read_study
from pipeline.reporting.surface import surface_sections
from pipeline.reporting.transfer import transfer_sections
from pipeline.runs.directory import read_run

WORDS = [
    "masks=[{train: none, test: none}, {train: oracle, test: oracle}]",
    "surface={}",
    "transfer={num_steps: 3}",
    "seeds=[0,1]",
    *run_path(str(Path(__file__).parents[1] / "tiny.py"))["NATURAL"],
]


def planned(*words: str) -> AblateConfig:
    return load_config("ablate", AblateConfig, [*WORDS, *words])


def test_every_arm_that_is_named_is_confined_three_ways_and_shown_to_the_arms_of_all_seeds() -> None:
    config = planned()
    assert len(arms(config)) == 4
    assert [(job.example.region.value, job.example.equal_l2) for job in confined(config)[:3]] == [
        ("foreground", False),
        ("background", False),
        ("foreground", True),
    ]
    assert len(confined(config)) == 3 * 4
    shown = transfers(config)
    assert [job.arm for job in shown] == arms(config)
    assert all(job.targets == tuple(arms(config)) for job in shown)
    everything = jobs(config)
    for job in shown:
        assert max(everything.index(other) for other in job.needs) < everything.index(job)
    assert len({job.title for job in everything}) == len(everything)
    fewer = planned("surface.sources=[none]", "transfer.objectives=[adversarial]")
    assert {job.example.masks.source.value for job in confined(fewer)} == {"none"}
    assert transfers(fewer) == []
    assert confined(planned("surface=null")) == transfers(planned("transfer=null")) == []
    euclidean = planned("attack.threat.norm=l2")
    assert not any(job.example.equal_l2 for job in confined(euclidean)), "its lengths are equal already"
    folded = planned("folds=2")
    assert len(confined(folded)) == 3 * 4
    assert [job.arm.fold.number for job in transfers(folded)] == [0] * 4 + [1] * 4  # type: ignore[union-attr]
    assert all({target.fold for target in job.targets} == {job.arm.fold} for job in transfers(folded))


def test_equal_l2_is_the_length_of_a_change_of_the_mean_foreground(synthetic_set: Path) -> None:
    dataset = open_prepared(synthetic_set)
    foreground = mean_foreground(synthetic_set, dataset.fingerprint)
    assert foreground == pytest.approx(float(np.mean(dataset.masks / 255)), abs=1e-6)
    change = np.full(int(3 * 32 * 32 * 0.25), 8 / 255)
    assert equal_l2((0.0, 8 / 255), side=32, foreground=0.25) == (0, pytest.approx(np.linalg.norm(change), rel=1e-3))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attack.threat.region=background"], "surface: confines the attacker itself"),
        (
            ["attack.threat={norm: patch, epsilons: [0.05]}", "primary_epsilon=null"],
            "transfer: its attack climbs inside a norm ball",
        ),
        (
            ["attack.threat={norm: patch, epsilons: [0.05]}", "primary_epsilon=null", "transfer=null", "decomposition=null"],
            "surface: an image without room for the square would count as robust",
        ),
        (["evaluation.save_images=false"], r"transfer: .* needs evaluation\.save_images=true"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        planned(*words)


@pytest.fixture(scope="module")
def study(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("ablation")
    data = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    assert main(["ablate", f"run={path}", f"prepared={synthetic_set}", *data, *WORDS]) == 0
    return read_study(path)


@pytest.mark.slow
def test_the_table_of_the_surface_holds_what_the_records_say(study: Study) -> None:
    about = json.loads((study.path / "ablation.json").read_text())
    assert len(about["confined"]) == 3 * 4
    by_arm = {arm.name: arm for arm in study.arms}
    robust: dict[tuple[str, str], list[float]] = {}
    for arm in study.arms:
        robust.setdefault((arm.condition.test_masks, "everywhere"), []).append(
            float(robust_images(arm.records, 8 / 255)["robust"].mean())
        )  # type: ignore[arg-type]
    for entry in study.confined:
        run = study.path / entry.evaluation
        threat = read_run(run).config["attack"]["threat"]
        assert threat["region"] == entry.budget.removesuffix("-l2")
        assert threat["norm"] == ("l2" if entry.budget.endswith("-l2") else "linf")
        share = float(robust_images(read_records(run), threat["epsilons"][-1])["robust"].mean())  # type: ignore[arg-type]
        robust.setdefault((by_arm[entry.arm].condition.test_masks, entry.budget), []).append(share)
    (section,) = surface_sections(study)
    levels, gains = section.tables
    assert len(levels.tidy) == 2 * 4
    for row in levels.tidy.iter_rows(named=True):
        assert row["value"] == pytest.approx(np.mean(robust[row["test_masks"], row["budget"]]))
    parts = {row["part"]: row["value"] for row in gains.tidy.iter_rows(named=True)}
    gain = {budget: np.mean(robust["oracle", budget]) - np.mean(robust["none", budget]) for _, budget in robust}
    assert parts["gain"] == pytest.approx(gain["everywhere"])
    assert parts["surface"] == pytest.approx(gain["everywhere"] - gain["foreground"])
    assert parts["gain-at-equal-l2"] == pytest.approx(gain["foreground-l2"])
    clean = robust_images(next(arm.records for arm in study.arms if arm.condition.test_masks == "oracle"), 2 / 255)
    assert len(clean) == 16
    assert (study.path / "report" / "tables" / "surface.csv").is_file()


@pytest.mark.slow
def test_the_matrix_has_the_recorded_figures_on_its_diagonal_and_other_seeds_apart(study: Study) -> None:
    assert len(study.transfers) == 4
    own: dict[str, list[float]] = {}
    for entry in study.transfers:
        rows = read_table(study.path / entry.rows, TRANSFERRED, remedy="")
        assert rows["target"].n_unique() == 4
        assert set(rows["source"]) == {entry.arm}
        at = rows.filter((pl.col("target") == entry.arm) & (pl.col("epsilon") == 8 / 255)).sort("sample_id")
        slug = Path(entry.rows).parent.name.rsplit("-", 1)[0]
        (attack,) = (study.path / "store" / "evaluations").glob(f"{slug}-shown-*")
        assert at["robust"].to_list() == robust_images(read_records(attack), 8 / 255)["robust"].to_list()
        masks = next(arm.condition.test_masks for arm in study.arms if arm.name == entry.arm)
        own.setdefault(masks, []).append(float(at["robust"].mean()))  # type: ignore[arg-type]
    (section,) = transfer_sections(study)
    same, other = section.tables
    for table in (same, other):
        assert len(table.tidy) == 2 * 2
        assert [len(row) for _, rows in table.groups for row in rows] == [3, 3]
    for masks, shares in own.items():
        diagonal = same.tidy.filter((pl.col("source_test_masks") == masks) & (pl.col("target_test_masks") == masks))
        assert diagonal["value"].item() == pytest.approx(np.mean(shares))
    assert (study.path / "report" / "tables" / "transfer-same-seed.csv").is_file()


@pytest.mark.slow
def test_a_damaged_transfer_is_one_line_and_a_deleted_one_is_made_again(study: Study) -> None:
    path = study.path / study.transfers[0].rows
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(RunError, match=r"transfer\.parquet: missing or damaged .*; run ablate again"):
        transfer_sections(study)
    path.unlink()
    config = read_run(study.path).config
    again = load_config("ablate", AblateConfig, [*WORDS, f"run={study.path}", f"prepared={config['prepared']}"])
    assert any(isinstance(job, TransferJob) for job in jobs(again))
    data = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    assert main(["ablate", f"run={study.path}", f"prepared={config['prepared']}", *data, *WORDS]) == 0
    assert read_table(path, TRANSFERRED, remedy="").equals(pl.read_parquet(content))
