"""The experiments that are shipped, and the grids that they mean."""

from itertools import product

import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.decomposition import DecompositionJob
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import arms, decompositions, jobs
from pipeline.ablation.job import ImageCounts
from pipeline.ablation.training_jobs import ClassifierJob, JointJob, SegmenterJob
from pipeline.cli.composition import compose, load_config
from pipeline.cli.groups import group_choices
from pipeline.config import CONFIG_DIR, to_plain, validate
from pipeline.errors import ConfigError
from pipeline.masks.config import MaskSource

GRID = {
    "seeds": [0, 7],
    "segmenter_objectives": ["natural", "adversarial"],
    "classifier_objectives": ["natural", "trades"],
    "masks": [
        {"train": "none", "test": "none"},
        {"train": "oracle", "test": "oracle"},
        {"train": "oracle", "test": "learned"},
        {"train": "learned", "test": "learned"},
        {"train": "oracle", "test": "frozen"},
    ],
    "degradation": {"kinds": ["eroded", "shifted"], "pixels": [1, 3], "objectives": ["trades"]},
    "decomposition": {},
    "silhouette": True,
}


def config(**changes: object) -> AblateConfig:
    composed = compose("ablate", AblateConfig, [])
    return validate(AblateConfig, composed | GRID | changes)


@pytest.mark.parametrize("name", group_choices("experiment"))
def test_every_shipped_experiment_is_valid_and_reads_back(name: str) -> None:
    loaded = load_config("ablate", AblateConfig, [f"experiment={name}", "data.root=somewhere"] if name != "quickstart" else [])
    assert loaded.experiment == name
    assert loaded.run.name == name
    assert validate(AblateConfig, to_plain(loaded)) == loaded
    assert decompositions(loaded)


@pytest.mark.parametrize("name", group_choices("experiment"))
def test_every_shipped_experiment_opens_with_purpose_command_cost_and_expectation(name: str) -> None:
    lines = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    opening = [line for line in lines if line.startswith("#")]
    for word in ("Purpose:", "Command: foreguard ablate", "Cost:", "Expect:"):
        assert any(line.startswith(f"# {word}") for line in opening), word
    assert f"experiment={name}" in "".join(opening)


def test_the_arms_are_the_product_of_seeds_objectives_pairs_and_segmenters() -> None:
    expected = set()
    for seed, objective in product((0, 7), ("natural", "trades")):
        expected |= {(seed, objective, "none", "none", None), (seed, objective, "oracle", "oracle", None)}
        for segmenter, (train, test) in product(
            ("natural", "adversarial"), (("oracle", "learned"), ("learned", "learned"), ("oracle", "frozen"))
        ):
            expected.add((seed, objective, train, test, segmenter))
    found = [
        (
            arm.seed,
            arm.classifier.objective,
            arm.classifier.masks.source,
            arm.masks.source,
            arm.segmenter and arm.segmenter.objective,
        )
        for arm in arms(config())
        if arm.role != "degradation"
    ]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_a_pair_that_names_its_segmenters_gets_arms_with_these_alone() -> None:
    masks = [
        {"train": "none", "test": "none"},
        {"train": "oracle", "test": "oracle", "segmenters": ["trades"]},
        {"train": "oracle", "test": "learned"},
        {"train": "learned", "test": "learned", "segmenters": ["adversarial"]},
        {"train": "oracle", "test": "frozen", "segmenters": ["trades", "adversarial"]},
    ]
    small = {"seeds": [3], "classifier_objectives": ["natural"], "degradation": None}
    named = config(masks=masks, segmenter_objectives=["natural", "adversarial", "trades"], **small)
    found = [
        (arm.classifier.masks.source.value, arm.masks.source.value, arm.segmenter and arm.segmenter.objective)
        for arm in arms(named)
    ]
    expected = [("none", "none", None), ("oracle", "oracle", None), ("learned", "learned", "adversarial")]
    expected += [("oracle", "learned", objective) for objective in ("natural", "adversarial", "trades")]
    expected += [("oracle", "frozen", objective) for objective in ("trades", "adversarial")]
    assert sorted(found, key=str) == sorted(expected, key=str)
    # A segmenter that no pair asks for is not trained, and the classifier behind one is trained with that one.
    one = config(masks=masks[3:4], **small)
    assert [job.objective for job in jobs(one) if isinstance(job, SegmenterJob)] == ["adversarial"]
    assert [job.segmenter.objective for job in jobs(one) if isinstance(job, ClassifierJob)] == ["adversarial"]


def test_a_pair_that_names_its_objectives_gets_arms_with_these_alone() -> None:
    masks = [{"train": "none", "test": "none"}, {"train": "oracle", "test": "oracle", "objectives": ["trades"]}]
    found = {(arm.classifier.objective, arm.masks.source.value) for arm in arms(config(masks=masks, degradation=None))}
    assert found == {("natural", "none"), ("trades", "none"), ("trades", "oracle")}


def test_the_epsilon_of_the_headline_may_be_written_as_a_fraction_of_the_attack() -> None:
    epsilons = "attack.threat.epsilons=[2/255,4/255]"
    assert load_config("ablate", AblateConfig, [epsilons, "primary_epsilon=2/255"]).primary_epsilon == 2 / 255
    assert load_config("ablate", AblateConfig, [epsilons, "primary_epsilon=null"]).primary_epsilon is None


def test_degraded_oracles_are_tested_on_the_classifier_of_the_oracle() -> None:
    degraded = [arm for arm in arms(config()) if arm.role == "degradation"]
    sizes = {(arm.seed, arm.masks.source.value, arm.masks.radius, arm.masks.shift) for arm in degraded}
    assert sizes == {(seed, kind, pixels, pixels) for seed in (0, 7) for kind in ("eroded", "shifted") for pixels in (1, 3)}
    assert all(arm.classifier.masks.source is MaskSource.ORACLE and arm.classifier.objective == "trades" for arm in degraded)


def test_frozen_masks_are_a_diagnostic() -> None:
    roles = {(arm.masks.source.value, arm.role) for arm in arms(config()) if arm.role != "degradation"}
    assert roles == {("none", "main"), ("oracle", "main"), ("learned", "main"), ("frozen", "diagnostic")}


JOINT = {"train": "joint", "test": "joint", "segmenters": ["adversarial"]}


@pytest.mark.parametrize(("begins", "behind"), [("learned", "adversarial"), ("oracle", None)])
def test_a_joint_arm_continues_from_a_segmenter_and_a_classifier(begins: str, behind: str | None) -> None:
    found = config(masks=[JOINT], joint={"classifier": begins}, degradation=None, seeds=[3], classifier_objectives=["trades"])
    (arm,) = arms(found)
    assert (arm.role, arm.masks.source, arm.classifier.masks.source) == ("main", MaskSource.JOINT, MaskSource.JOINT)
    assert arm.name == "trades classifier, masks joint to joint adversarial segmenter, seed 3"
    assert arm.masked_by is arm.classifier
    todo = jobs(found)
    trained = [job for job in todo if isinstance(job, SegmenterJob | ClassifierJob | JointJob)]
    segmenter, classifier, joint = trained
    assert (segmenter.objective, classifier.objective, joint.objective) == ("adversarial", "trades", "trades")
    assert classifier.masks.source == begins
    assert (classifier.segmenter and classifier.segmenter.objective) == behind
    assert joint.needs == (segmenter, classifier)
    assert all(job.passes(found, ImageCounts(train=10, val=5, test=5, classes=3)).total > 0 for job in trained)


def test_a_joint_arm_shares_its_beginnings_with_the_arms_of_stages_trained_apart() -> None:
    pairs = [JOINT, {"train": "learned", "test": "learned", "segmenters": ["adversarial"]}]
    both, alone = (jobs(config(masks=masks, degradation=None, decomposition=None)) for masks in (pairs, pairs[1:]))
    assert set(alone) < set(both)
    assert {type(job) for job in set(both) - set(alone)} == {JointJob, EvaluationJob}


@pytest.mark.parametrize("pair", [("learned", "joint"), ("oracle", "joint"), ("joint", "learned")])
def test_joint_masks_are_of_stages_that_were_trained_together(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"masks\.\d: joint masks are those of stages that were trained together"):
        config(masks=[{"train": pair[0], "test": pair[1]}], degradation=None)


def test_every_job_comes_once_and_after_what_it_needs() -> None:
    todo = jobs(config())
    assert len(set(todo)) == len(todo)
    position = {job: number for number, job in enumerate(todo)}
    for job in todo:
        assert all(position[other] < position[job] for other in job.needs)


def test_each_stage_is_trained_once_however_many_arms_use_it() -> None:
    todo = jobs(config())
    assert sum(isinstance(job, SegmenterJob) for job in todo) == 2 * 2
    # none, oracle and, for each segmenter, learned: four classifiers for each seed and objective
    assert sum(isinstance(job, ClassifierJob) for job in todo) == 2 * 2 * 4


def test_the_first_arm_is_finished_before_the_second_stage_is_trained() -> None:
    kinds = [type(job) for job in jobs(config())[:4]]
    assert kinds == [ClassifierJob, EvaluationJob, ClassifierJob, EvaluationJob]


def test_titles_tell_all_jobs_apart() -> None:
    todo = jobs(config())
    assert len({(type(job), job.title) for job in todo}) == len(todo)


def test_learned_arms_are_compared_with_the_oracle_on_the_same_classifier_where_there_is_one() -> None:
    found = decompositions(config())
    assert len(found) == 2 * 2 * 2 * 2  # seeds, objectives, segmenters, pairs with learned masks in testing
    for job in found:
        assert job.oracle.masks.source is MaskSource.ORACLE
        assert (job.oracle.seed, job.oracle.classifier.objective) == (job.arm.seed, job.arm.classifier.objective)
        same = job.arm.classifier.masks.source is MaskSource.ORACLE
        assert (job.oracle.classifier == job.arm.classifier) == same


def test_without_an_arm_of_the_oracle_nothing_is_decomposed() -> None:
    masks = [{"train": "learned", "test": "learned"}]
    assert not any(isinstance(job, DecompositionJob) for job in jobs(config(masks=masks, degradation=None)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seeds=[1,1]"], r"seeds: names the same thing twice"),
        (["classifier_trainer.seed=3"], r"classifier_trainer\.seed: the seed of an arm is one of seeds: say seeds=\[3\]"),
        (["segmenter_trainer.devices=2"], r"segmenter_trainer: an ablation trains on one device"),
        (["evaluation.save_images=false"], r"decomposition: scores the adversarial images again"),
        (["degradation.objectives=[trades]"], r"degradation\.objectives: names a classifier that classifier_objectives does not"),
        (
            ["segmenter_objectives=[natural]", "masks=[{train: oracle, test: learned, segmenters: [natural, trades]}]"],
            r"masks: segmenters=\['natural', 'trades'\] names one that segmenter_objectives does not",
        ),
        (
            ["classifier_objectives=[natural]", "masks=[{train: none, test: none, objectives: [adversarial]}]", "degradation=null"],
            r"masks: objectives=\['adversarial'\] names one that classifier_objectives does not",
        ),
        (["masks=[{train: oracle, test: learned, segmenters: []}]"], r"masks\.0\.segmenters: .* at least 1 item"),
        (["masks=[{train: oracle, test: learned, segmenters: [robust]}]"], r"masks: segmenters=\['robust'\] names one that"),
        (["primary_epsilon=5/255"], r"primary_epsilon: is not one of attack\.threat\.epsilons"),
        (["primary_epsilon=0"], r"primary_epsilon: Input should be greater than 0"),
        (["experiment=quikstart"], r"experiment=quikstart: unknown choice; choose one of coco, "),
        (["masks=[{train: oracle, test: lerned}]"], r"masks\.0\.test: Input should be 'none', 'oracle'"),
        (["classifier_trainer.epoch=3"], r"classifier_trainer\.epoch: unknown key; did you mean classifier_trainer\.epochs\?"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        load_config("ablate", AblateConfig, words)
    assert "\n" not in str(raised.value)
