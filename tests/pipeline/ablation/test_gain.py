"""What the oracle's masks add, split by controls: against sums done by hand, and from the records of a real ablation."""

import json
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.gain import LEVELS, PARTS, split_gain
from pipeline.ablation.grid import arms, confined, gain_systems
from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.errors import ConfigError
from pipeline.evaluation.records import read_records
from pipeline.evaluation.statistics import compare, share
from pipeline.reporting.gain import gain_section
from pipeline.reporting.reading import read_study
from pipeline.runs.directory import read_run

NEEDED = ("none", "oracle", "foreign-same", "random-alike")
MASKS = "masks=[" + ", ".join(f"{{train: {source}, test: {source}}}" for source in NEEDED) + "]"
WORDS = [
    MASKS,
    "gain=true",
    *run_path(str(Path(__file__).parents[1] / "tiny.py"))["NATURAL"],
]


def test_the_parts_are_differences_of_the_systems_and_add_up_to_the_gain() -> None:
    rng = np.random.default_rng(4)
    robust = {
        level: (rng.random((2, 40)) < share).astype(float) for level, share in zip(LEVELS, np.linspace(0.2, 0.8, 6), strict=True)
    }
    found = split_gain(robust, np.arange(40) // 4)
    means = {level: values.mean() for level, values in robust.items()}
    assert {level: found[level].value for level in LEVELS} == pytest.approx(means)
    assert found["gain"].value == pytest.approx(means["oracle"] - means["none"])
    assert found["surface"].value == pytest.approx(means["foreground"] - means["none"])
    assert found["outline"].value == pytest.approx(means["foreign-same"] - means["random-alike"])
    assert found["gain"].value == pytest.approx(sum(found[part].value for part in ("surface", "outline", "rest")))
    for part in PARTS:
        assert found[part].low < found[part].value < found[part].high
        assert (found[part].n, found[part].groups) == (40, 10)


def test_an_interval_is_paired_by_image_and_counts_groups() -> None:
    """Systems that stand and fall together differ by no more than a sample without a difference allows; the same figures in fewer
    groups are less sure."""
    rng = np.random.default_rng(5)
    same = (rng.random((1, 200)) < 0.5).astype(float)
    robust = dict.fromkeys(LEVELS, same)
    found = split_gain(robust, np.arange(200))
    of_two = compare(same[0] > 0, same[0] > 0, np.arange(200)).difference
    for part, most in (("gain", 1), ("surface", 1), ("outline", 1), ("rest", 2)):
        assert (found[part].low, found[part].value, found[part].high) == pytest.approx((most * of_two.low, 0, most * of_two.high))
    clustered = np.repeat((rng.random((1, 20)) < 0.5).astype(float), 10, axis=1)
    robust = {**robust, "oracle": clustered}
    wide, narrow = (split_gain(robust, groups)["oracle"] for groups in (np.arange(200) // 10, np.arange(200)))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_level_where_all_images_say_the_same_has_the_interval_of_a_share(right: float, seeds: int) -> None:
    robust = dict.fromkeys(LEVELS, np.full((seeds, 60), right))
    found = split_gain(robust, np.arange(60) // 2)
    expected = share(np.full(60, right > 0), np.arange(60) // 2)
    for level in LEVELS:
        assert (found[level].low, found[level].high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_level_of_one_seed_has_the_interval_that_the_table_of_systems_gives_it() -> None:
    robust = dict.fromkeys(LEVELS, np.eye(1, 60))
    found, expected = split_gain(robust, np.arange(60)), share(np.arange(60) < 1, np.arange(60))
    assert all(found[level] == expected for level in LEVELS)


def test_a_level_of_few_images_over_two_seeds_is_never_surer_than_wilsons_interval() -> None:
    robust = dict.fromkeys(LEVELS, np.tile(np.eye(1, 60), (2, 1)))
    found, wilson = split_gain(robust, np.arange(60)), share(np.arange(60) < 1, np.arange(60))
    assert all(found[level].high >= wilson.high - 1e-12 for level in LEVELS)


@pytest.mark.parametrize("right", [1, 3])
def test_of_two_systems_under_one_seed_the_interval_is_that_of_their_comparison(right: int) -> None:
    """With few images that differ resampling would be surer: of 60 it never draws one that is not there."""
    few, nothing = np.arange(60)[None] < right, np.zeros((1, 60))
    robust = {**dict.fromkeys(LEVELS, nothing), **dict.fromkeys(("oracle", "foreground", "foreign-same"), few.astype(float))}
    found, expected = split_gain(robust, np.arange(60)), compare(few[0], nothing[0] > 0, np.arange(60)).difference
    assert [found[part] for part in ("gain", "surface", "outline")] == [expected] * 3


@pytest.mark.parametrize("more", [[], ["surface={}"], ["surface={}", "folds=3"], ["surface={}", "attack.threat.norm=l2"]])
def test_the_gain_is_made_of_the_arms_without_masks_alone_whatever_else_is_confined(more: list[str]) -> None:
    config = load_config("ablate", AblateConfig, [*WORDS, "seeds=[0,1]", *more])
    found = gain_systems(config, "natural")
    assert set(found) == set(LEVELS)
    for level, systems in found.items():
        seen = [(one.seed, one.classifier.masks.source.value, one.masks.source.value) for one in (job.example for job in systems)]
        masks = level if level in NEEDED else "none"
        assert seen == [(0, masks, masks), (1, masks, masks)]
        assert {(job.example.region.value, job.example.equal_l2) for job in systems} == {
            ("everywhere" if level in NEEDED else level, False)
        }


@pytest.mark.slow
def test_an_ablation_confines_the_attacker_and_reports_the_split(synthetic_set: Path, tmp_path: Path) -> None:
    data = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    assert main(["ablate", f"run={tmp_path}", f"prepared={synthetic_set}", *data, *WORDS]) == 0
    about = json.loads((tmp_path / "ablation.json").read_text())
    assert len(about["arms"]) == 4  # the confined ones are no arms: their figures are of another threat
    runs = {run.name: run for run in (tmp_path / "store" / "evaluations").iterdir()}
    assert len(runs) == 6
    regions = {read_run(run).config["attack"]["threat"]["region"]: run for name, run in runs.items() if "-on-" in name}
    assert set(regions) == {"foreground", "background"}
    entries = {(entry["part"], entry["epsilon"]): entry["value"] for entry in about["gain"]}
    assert len(entries) == 2 * (len(PARTS) + len(LEVELS))
    at = max(epsilon for _, epsilon in entries)

    def robust(run: Path) -> float:
        stands: dict[str, bool] = {}
        for record in read_records(run).iter_rows(named=True):
            right = record["clean_prediction"] == record["label"] == record["adversarial_prediction"]
            stands[record["sample_id"]] = stands.get(record["sample_id"], True) and right
        assert len(stands) == 16
        return sum(stands.values()) / 16

    by_masks = {arm["test_masks"]: robust(tmp_path / arm["evaluation"]) for arm in about["arms"]}
    by_region = {region: robust(run) for region, run in regions.items()}
    assert entries["surface", at] == pytest.approx(by_region["foreground"] - by_masks["none"])
    assert entries["background", at] == pytest.approx(by_region["background"])
    assert entries["outline", at] == pytest.approx(by_masks["foreign-same"] - by_masks["random-alike"])
    section = gain_section(read_study(tmp_path))
    parts, _ = section.tables
    assert [cells[0].text for _, rows in parts.groups for cells in rows] == [
        "Oracle minus none",
        "Surface taken from the attacker",
        "What the outline names",
        "The rest",
    ]
    assert set(parts.tidy["part"]) == set(PARTS)
    assert (tmp_path / "report" / "tables" / "gain.csv").is_file()


def test_an_experiment_without_a_split_says_so(synthetic_set: Path) -> None:
    config = load_config("ablate", AblateConfig, [f"prepared={synthetic_set}", "gain=false"])
    assert confined(config) == []
    crossed = load_config("ablate", AblateConfig, [*WORDS, "folds=3", "seeds=[0,1]"])
    assert len(confined(crossed)) == 2 * 2
    some = MASKS.replace("test: oracle}", "test: oracle, objectives: [natural]}")
    of_one = load_config("ablate", AblateConfig, [*WORDS, "classifier_objectives=[natural,adversarial]", some])
    assert [job.example.classifier.objective for job in confined(of_one)] == ["natural"] * 2
    assert {job.example.region.value for job in confined(crossed)} == {"foreground", "background"}
    assert len({job.name for job in (*arms(crossed), *confined(crossed))}) == 2 * 6


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            [*WORDS, "masks=[{train: none, test: none}]"],
            r"gain: needs the pairs \{train: none, test: none\}, .* in masks",
        ),
        ([*WORDS, "attack.threat.region=background"], r"gain: confines the attacker itself"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_config("ablate", AblateConfig, words)
