"""Entries of ``segmenter_objectives`` and ``classifier_objectives``: what they mean, and arms that are trained by them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import arms, decompositions, jobs
from pipeline.ablation.training_jobs import ClassifierJob, JointJob, SegmenterJob
from pipeline.attacks.config import PgdConfig
from pipeline.cli.composition import compose, load_config
from pipeline.cli.main import main
from pipeline.config import to_plain, validate
from pipeline.errors import ConfigError
from pipeline.runs.directory import read_run
from pipeline.training.awp import AwpConfig
from pipeline.training.config import TrainClassifierConfig
from pipeline.training.objectives import (
    AdversarialConfig,
    FastConfig,
    MartConfig,
    NoiseConfig,
    RobustValidationConfig,
    TradesConfig,
)

ATTACK = PgdConfig(epsilon=2 / 255, step_size=1.5 / 255, num_steps=2)
VALIDATION = RobustValidationConfig(max_images=60)
LONGER, WIDER = (PgdConfig(**{**vars(ATTACK), **changes}) for changes in ({"num_steps": 5}, {"epsilon": 4 / 255}))
ADVERSARIAL = AdversarialConfig(attack=ATTACK, validation=VALIDATION)
SMALL = {"masks": [{"train": "none", "test": "none"}], "degradation": None, "decomposition": None, "silhouette": False}


def config(entries: list[Any], **changes: object) -> AblateConfig:
    shared = {"classifier_objectives": entries, "adversarial": to_plain(ADVERSARIAL), "trades": {"beta": 3.0}}
    return validate(AblateConfig, compose("ablate", AblateConfig, []) | SMALL | shared | changes)


MEANINGS = [
    ("adversarial", ADVERSARIAL),
    ("trades", TradesConfig(beta=3.0)),
    ("mart", MartConfig(attack=ATTACK, validation=VALIDATION)),
    ("fast", FastConfig(epsilon=2 / 255, validation=VALIDATION)),
    ("n_fgsm", FastConfig(epsilon=2 / 255, noise=2, step=1, clip=False, validation=VALIDATION)),
    ("awp", AwpConfig(of=ADVERSARIAL)),
    ("noise", NoiseConfig()),
    ({"name": "mart", "weight": 6, "attack": {"num_steps": 5}}, MartConfig(weight=6, attack=LONGER, validation=VALIDATION)),
    ({"name": "n_fgsm", "epsilon": "4/255"}, FastConfig(epsilon=4 / 255, noise=2, step=1, clip=False, validation=VALIDATION)),
    ({"name": "awp", "gamma": 0.01, "of": "trades"}, AwpConfig(gamma=0.01, of=TradesConfig(beta=3.0))),
    ({"name": "awp", "of": {"name": "fast", "step": 1}}, AwpConfig(of=FastConfig(epsilon=2 / 255, step=1, validation=VALIDATION))),
    (
        {"name": "adversarial", "attack": {"epsilon": "4/255"}, "label": "wider"},
        AdversarialConfig(attack=WIDER, validation=VALIDATION),
    ),
    ({"name": "noise", "deviation": 0.5, "label": "noise-0_5"}, NoiseConfig(deviation=0.5)),
]


@pytest.mark.parametrize(("entry", "meaning"), MEANINGS, ids=[json.dumps(entry) for entry, _ in MEANINGS])
def test_what_an_entry_leaves_out_is_that_of_the_adversarial_training_or_as_shipped(entry: Any, meaning: object) -> None:
    chosen = config([entry])
    (called,) = chosen.classifier_labels
    assert called == (entry if isinstance(entry, str) else entry.get("label", entry["name"]))
    assert chosen.objective(called) == meaning
    assert validate(AblateConfig, to_plain(chosen)) == chosen
    (job,) = (job for job in jobs(chosen) if isinstance(job, ClassifierJob))
    assert job.objective == called


def test_bare_names_mean_what_the_training_command_is_told_by_the_same_name() -> None:
    """But for attacks, which are as in the rest of the ablation: here the default ones."""
    shipped = ["objective=adversarial", "attack/training@objective.attack=pgd10_linf"]
    adversarial = load_config("train-classifier", TrainClassifierConfig, ["prepared=p", "run=r", *shipped]).objective
    default = config(["natural"], adversarial=to_plain(adversarial))
    for name in ("natural", "fast", "n_fgsm", "mart", "noise"):
        words = ["prepared=p", "run=r", f"objective={name}"]
        assert default.objective(name) == load_config("train-classifier", TrainClassifierConfig, words).objective


def test_arms_of_one_objective_in_two_forms_are_told_apart_by_labels_everywhere() -> None:
    wider = {"name": "adversarial", "label": "wider", "attack": {"epsilon": "4/255"}}
    masks = [
        {"train": "none", "test": "none"},
        {"train": "oracle", "test": "oracle"},
        {"train": "oracle", "test": "learned", "objectives": ["wider"]},
    ]
    worse = {"objectives": ["wider"], "kinds": ["eroded"], "pixels": [1]}
    chosen = config(["adversarial", wider, "fast"], masks=masks, decomposition={}, degradation=worse)
    main_arms = [(arm.classifier.objective, arm.masks.source.value) for arm in arms(chosen) if arm.role == "main"]
    assert sorted(main_arms) == sorted(
        [(name, source) for name in ("adversarial", "wider", "fast") for source in ("none", "oracle")] + [("wider", "learned")]
    )
    assert [one.arm.classifier.objective for one in decompositions(chosen)] == ["wider"]
    assert {arm.classifier.objective for arm in arms(chosen) if arm.role == "degradation"} == {"wider"}
    titles = [job.title for job in jobs(chosen)]
    assert len(set(titles)) == len(titles)


def test_segmenters_and_joint_trainings_take_recipes_too() -> None:
    masks = [{"train": "joint", "test": "joint"}]
    chosen = config(["fast"], masks=masks, segmenter_objectives=["awp"])
    (segmenter,) = (job for job in jobs(chosen) if isinstance(job, SegmenterJob))
    (joint,) = (job for job in jobs(chosen) if isinstance(job, JointJob))
    assert (segmenter.objective, joint.objective) == ("awp", "fast")


@pytest.mark.parametrize(
    ("entries", "changes", "line"),
    [
        (["fats"], {}, r"classifier_objectives\.0: 'fats' is no objective: name one of adversarial, awp, fast, mart, n_fgsm, "),
        ([{"label": "x"}], {}, r"classifier_objectives\.0: None is no objective"),
        ([{"name": "fast", "epsilom": 1}], {}, r"classifier_objectives\.0\.epsilom: unknown key; did you mean epsilon\?"),
        ([{"name": "awp", "of": "noise"}], {}, r"classifier_objectives\.0\.of: 'noise' is not one of 'adversarial', "),
        ([{"name": "awp", "of": "fats"}], {}, r"classifier_objectives\.0\.of: is to be an objective as in the list itself"),
        ([{"name": "awp", "of": {"name": "mart", "weight": -1}}], {}, r"classifier_objectives\.0\.of\.weight: .* greater than"),
        ([{"name": "fast", "label": "natural"}], {}, r"classifier_objectives\.0: label natural is the name of another objective"),
        ([{"name": "fast", "label": "a/b"}], {}, r"classifier_objectives\.0: label 'a/b' is not made of"),
        (["fast", {"name": "fast", "step": 1}], {}, r"classifier_objectives: two are called fast: give one a label"),
        (["natural"], {"segmenter_objectives": ["mart"]}, r"segmenter_objectives\.0\.objective=mart: its losses are of classes"),
        (["mart"], {"label_smoothing": 0.1}, r"classifier_objectives\.0\.label_smoothing: the loss of objective=mart knows none"),
        (
            ["mart"],
            {"masks": [{"train": "joint", "test": "joint"}], "joint": {"attack_on": "each"}},
            r"classifier_objectives\.0\.attack_on=each: objective=mart has one loss for both stages",
        ),
        (
            [{"name": "awp", "gamma": 0.1}],
            {"segmenter_objectives": ["awp"]},
            r"classifier_objectives: awp is another one in segmenter_objectives: give one a label",
        ),
        (
            ["fast"],
            {"adversarial": {"attack": {"norm": "l2", "epsilon": 0.5}}},
            r"\.0\.epsilon: missing; fast steps in the",
        ),
        (["fast"], {"decomposition": {"objectives": ["fats"]}}, r"decomposition\.objectives: fats is neither"),
        (["fast"], {"evaluation": {"sanity": {"objectives": ["fats"]}}}, r"evaluation\.sanity\.objectives: fats is neither"),
        (["fast"], {"systems": [{"name": "n_fgsm", "system": "a:b"}]}, r"systems: n_fgsm is the name of an objective"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(entries: list[Any], changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        config(entries, **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_an_ablation_trains_attacks_and_reports_every_recipe(
    synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["natural", "adversarial", "trades", "fast", "n_fgsm", "mart", "awp", "noise"]
    entries = [*names, "{name: fast, step: 1, label: short}"]
    words = [
        f"run={tmp_path / 'run'}",
        f"prepared={synthetic_set}",
        "data.num_train=96",
        "data.num_val=32",
        "data.num_test=32",
        "data.num_classes=10",
        "classifier.width=4",
        f"classifier_objectives=[{','.join(entries)}]",
        "masks=[{train: none, test: none}, {train: oracle, test: oracle}]",
        "classifier_trainer.epochs=1",
        "adversarial.attack={num_steps: 1}",
        "trades.attack={num_steps: 1}",
        "attack.threat.epsilons=[4/255]",
        "primary_epsilon=null",
        "~attack.attacks",
        "+attack.attacks={pgd: {kind: class, search: pgd, num_steps: 1}}",
        "evaluation={max_images: 8, sanity: null, gallery_images: 0}",
        *("degradation=null", "decomposition=null", "silhouette=false"),
    ]
    assert main(["ablate", *words]) == 0, capsys.readouterr().err
    called = [*names, "short"]
    manifest = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert {arm["classifier_objective"] for arm in manifest["arms"]} == set(called)
    trained = {name: read_run(next((tmp_path / "run" / "store" / "classifiers").glob(f"{name}-none-*"))).config for name in called}
    assert trained["n_fgsm"]["objective"]["noise"] == 2
    assert trained["short"]["objective"]["step"] == 1
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert all(f"Classifier trained with {name}" in page for name in called[2:])
