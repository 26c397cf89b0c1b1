"""Systems of the user's own as arms of an ablation: tried before anything is trained, attacked like the others, named, reused."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline import load_system
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import own_systems
from pipeline.ablation.job import Materials
from pipeline.ablation.run import run_ablation
from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.errors import RunError
from pipeline.evaluation.records import read_records
from pipeline.evaluation.statistics import compare
from pipeline.reporting import tables, wording
from pipeline.reporting.citation import methods
from pipeline.reporting.comparisons import compared_with_own
from pipeline.reporting.data import verdicts
from pipeline.reporting.document import own_section
from pipeline.reporting.figures import compute_figures
from pipeline.reporting.reading import read_study
from pipeline.reporting.trust import failures
from pipeline.runs.locking import locked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MODELS = """
import torch
from torch import nn

from pipeline import TwoStage


def net(num_classes=NUM_CLASSES, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, num_classes))


def bare():
    return net()


def two_stage():
    return TwoStage(net(seed=1), segmenter=nn.Conv2d(3, 1, 3, padding=1), masks="learned", fill="grey")


class Attention(nn.Module):
    '''A mask in words of its author.'''

    def __init__(self):
        super().__init__()
        self.net = net(seed=2)

    @property
    def mask_traits(self):
        from pipeline.masks.traits import MaskTraits

        return MaskTraits(source="attention", follows_image=True)

    def masks(self, images, context=None):
        return images.mean(dim=1, keepdim=True)

    def forward(self, images, context=None):
        return self.net(images * self.masks(images))


def few_classes():
    return net(num_classes=2)


class Maps(nn.Module):
    def forward(self, images):
        return images


class Nan(nn.Module):
    def forward(self, images):
        return torch.full((len(images), NUM_CLASSES), float("nan"))


def restless():
    torch.seed()
    return net(seed=torch.initial_seed())
"""
TINY = [
    "masks=[{train: none, test: none}]",
    "classifier_objectives=[natural]",
    "classifier.width=2",
    "classifier_trainer.epochs=1",
    "attack.threat.epsilons=[2/255,8/255]",
    "attack.attacks.pgd.num_steps=2",
    "~attack.attacks.apgd-targeted",
    "attack.attacks.joint-collapse.num_steps=2",
    "primary_epsilon=null",
    "evaluation={max_images: 12, gallery_images: 0, sanity: null}",
    "degradation=null",
    "decomposition=null",
    "silhouette=false",
]
SYSTEMS = "systems=[{name: our net, system: own_arms:bare}, {name: theirs, system: own_arms:two_stage}]"


@pytest.fixture(scope="module")
def place(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a module of models."""
    directory = tmp_path_factory.mktemp("own-arms")
    (directory / "own_arms.py").write_text(MODELS.replace("NUM_CLASSES", str(open_prepared(synthetic_set).num_classes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        yield directory
    sys.modules.pop("own_arms", None)


@pytest.fixture(scope="module")
def words(place: Path, synthetic_set: Path) -> Callable[..., list[str]]:
    """Of an ablation of the data that other tests read too, which was made with other settings than the quickstart's."""
    recipe = open_prepared(synthetic_set).recipe
    data = [f"data.{key}={json.dumps(recipe[key])}" for key in ("num_train", "num_val", "num_test", "num_classes") if key in recipe]
    return lambda *more, run="run": [
        f"prepared={synthetic_set}",
        f"run={place / run}",
        f"store={place / 'store'}",
        *data,
        *TINY,
        *more,
    ]


@pytest.fixture(scope="module")
def ablation(words: Callable[..., list[str]], place: Path) -> Path:
    """A finished one with a bare module and a two-stage model. To be read only."""
    assert run_ablation(load_config("ablate", AblateConfig, words(SYSTEMS)))
    return place / "run"


def entries(run: Path) -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in json.loads((run / "ablation.json").read_text())["systems"]}


@pytest.mark.slow
def test_they_are_attacked_on_the_same_images_with_the_same_suite(ablation: Path) -> None:
    arm = json.loads((ablation / "ablation.json").read_text())["arms"][0]
    trained = read_records(ablation / arm["evaluation"])
    assert list(entries(ablation)) == ["our net", "theirs"]
    of_system = {name: read_records(ablation / str(entry["evaluation"])) for name, entry in entries(ablation).items()}
    for records in of_system.values():
        key = ["sample_id", "label", "epsilon"]
        assert_frame_equal(records.select(key).unique().sort(key), trained.select(key).unique().sort(key))
    assert set(of_system["our net"]["attack"]) == set(trained["attack"]) == {"pgd"}
    assert set(of_system["theirs"]["attack"]) == {"pgd", "joint-collapse"}


def test_the_report_names_them_and_compares_them_apart_from_the_answer(ablation: Path) -> None:
    study = read_study(ablation)
    found = compute_figures(study)
    assert not found.comparisons
    (section,) = own_section(study, failures(study))
    failed = {wording.system_text(one.condition) for one in failures(study)}  # an untrained net answers all alike
    assert failed
    assert all(f"{text}: constant predictor" in str(section.warning) for text in failed)
    shown = [row[0].text for _, rows in section.tables[0].groups for row in rows]
    assert shown == 2 * ["our net - none"] + 2 * ["theirs - none", "theirs - our net"]
    assert [group for group, _ in tables.headline(study, found).groups] == [
        "Naturally trained classifier",
        "System of your own: our net",
        "System of your own: theirs",
    ]
    assert tables.seeds(study, found).num_rows == 1
    paragraph = " ".join(methods(study))
    assert "Every other system was trained once. our net (own_arms:bare) and theirs (own_arms:two_stage) came trained." in paragraph
    one = next(one for one in compared_with_own(study) if one.name == "theirs - none" and one.epsilon == 8 / 255)
    arms = study.by_condition("main")
    (theirs, none), groups = verdicts([*arms[one.first], *arms[one.second]], 8 / 255)
    assert one.difference == compare(theirs, none, groups).difference


def test_an_arm_that_no_run_holds_is_not_loaded(ablation: Path) -> None:
    with pytest.raises(RunError, match=r"the arm theirs is own_arms:two_stage, which no run holds: import it$"):
        load_system(ablation, arm="theirs")


def test_they_are_reused_by_another_ablation_until_their_weights_change(
    ablation: Path, words: Callable[..., list[str]], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del ablation
    again = words("systems=[{name: renamed, system: own_arms:bare}]", "dry_run=true", run="other")
    assert main(["ablate", *again]) == 0
    shown = capsys.readouterr().out
    assert "1 systems of 1 trained stages and 1 of your own, 1 seed" in shown
    assert "attack   reused     renamed (own_arms:bare), seed 0" in shown
    assert "to do: 0 of 3 jobs" in shown
    source = (place / "own_arms.py").read_text()
    try:
        (place / "own_arms.py").write_text(source.replace("return net()", "return net(seed=7)"))
        sys.modules.pop("own_arms")
        assert main(["ablate", *again]) == 0
        assert "attack   new        renamed (own_arms:bare), seed 0" in capsys.readouterr().out
    finally:
        (place / "own_arms.py").write_text(source)
        sys.modules.pop("own_arms", None)


def test_an_ablation_that_was_stopped_before_them_goes_on_with_them(ablation: Path, words: Callable[..., list[str]]) -> None:
    path = ablation / str(entries(ablation)["theirs"]["evaluation"])
    before = read_records(path)
    shutil.rmtree(path)
    assert run_ablation(load_config("ablate", AblateConfig, words(SYSTEMS)))
    clock = pl.exclude("seconds")
    assert_frame_equal(read_records(path).select(clock), before.select(clock), check_exact=True)


def test_a_process_without_sharing_that_holds_a_job_is_named_once_and_waited_for(
    ablation: Path, words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = (ablation / str(entries(ablation)["theirs"]["evaluation"])).resolve()
    (path / "summary.json").unlink()
    looks: list[float] = []
    with ExitStack() as other:
        other.enter_context(locked(path / ".lock", busy="-"))

        def wait(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                other.close()

        monkeypatch.setattr(time, "sleep", wait)
        assert run_ablation(load_config("ablate", AblateConfig, words(SYSTEMS, "shared=true")))
    assert len(looks) == 3
    assert (path / "summary.json").is_file()
    lines = [line for line in capsys.readouterr().err.splitlines() if "another process is working in this directory" in line]
    assert len(lines) == 1
    assert "theirs (own_arms:two_stage), seed 0: waiting: " in lines[0]
    assert lines[0].endswith("another process is working in this directory without shared=true")


def test_a_shared_ablation_is_reported_once_for_what_was_found_whatever_the_clocks_say(
    ablation: Path, words: Callable[..., list[str]]
) -> None:
    config = load_config("ablate", AblateConfig, words(SYSTEMS, "shared=true"))
    (ablation / ".reported").unlink(missing_ok=True)
    reports: list[str] = []

    def run() -> int:
        assert run_ablation(config, report=lambda: reports.append("made"))
        return len(reports)

    assert run() == 1
    assert run() == 1
    late = time.time() + 100  # a helper, or the clock of another machine, wrote it after the report
    os.utime(ablation / "ablation.json", (late, late))
    assert run() == 1
    (ablation / ".reported").write_text("of what was found before")
    assert run() == 2


@pytest.mark.parametrize("sanity", ["null", "{images: 3, objectives: [adversarial]}"])
def test_they_are_searched_for_false_robustness_where_any_system_is(words: Callable[..., list[str]], sanity: str) -> None:
    config = load_config("ablate", AblateConfig, words(SYSTEMS, f"evaluation.sanity={sanity}"))
    materials = Materials(
        ablation=config, prepared=config.prepared, data_fingerprint="f" * 64, finished={}, systems={"own_arms:bare": "0" * 64}
    )
    checked = own_systems(config)[0].config(materials, Path("run"))
    assert (checked.sanity, checked.sanity_images) == ((False, 1) if sanity == "null" else (True, 3))


def test_a_mask_in_words_of_its_author_is_reported(words: Callable[..., list[str]], place: Path, ablation: Path) -> None:
    del ablation
    assert run_ablation(
        load_config("ablate", AblateConfig, words("systems=[{name: a, system: own_arms:Attention}]", run="attention"))
    )
    study = read_study(place / "attention")
    assert "System of your own: a; masks: attention" in wording.system_text(study.own[0])
    assert [figures.condition.masks for figures in compute_figures(study).of_role("main")] == ["none to none", "attention"]
    alone = read_study(place / "attention" / str(entries(place / "attention")["a"]["evaluation"]))
    assert [arm.condition.tested for arm in alone.arms] == ["attention"]
    assert not compute_figures(alone).comparisons


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("no_such_module:build", "there is no module no_such_module, neither in "),
        ("own_arms:bear", "own_arms has no bear; did you mean bare?"),
        ("own_arms:few_classes", "has 2 classes, and "),
        ("own_arms:Maps", "the model returns the shape (8, 3, "),
        ("own_arms:Nan", "the model returns values that are not finite for clean images"),
        (
            "own_arms:restless",
            "has other weights at every call, so no evaluation of it could be found again: load them from a file",
        ),
    ],
)
def test_what_cannot_be_attacked_is_one_line_before_anything_is_trained(
    words: Callable[..., list[str]], place: Path, capsys: pytest.CaptureFixture[str], system: str, said: str
) -> None:
    assert main(["ablate", *words(f"systems=[{{name: wrong one, system: {system}}}]", run="wrong")]) == 2
    error = capsys.readouterr().err
    assert f"systems: wrong one: system={system}: {said}" in error
    assert len(error.strip().splitlines()) == 1
    assert not (place / "wrong").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["systems=[{name: a, system: own_arms:bare}]", "folds=2"], "so no fold is new to it: leave folds out"),
        (["systems=[{name: a, system: own_arms:bare}, {name: a, system: own_arms:two_stage}]"], "systems: two have the same name"),
        (["systems=[{name: a, system: own_arms:bare}, {name: b, system: own_arms:bare}]"], "systems: two have the same system"),
        (["systems=[{name: oracle, system: own_arms:bare}]"], "systems: oracle is the name of an objective or a mask source"),
        (["systems=[{name: trades, system: own_arms:bare}]"], "systems: trades is the name of an objective or a mask source"),
        (["systems=[{name: ../a, system: own_arms:bare}]"], "systems.0.name"),
        (["systems=[{name: a}]"], "systems.0.system"),
    ],
)
def test_what_an_arm_cannot_be_is_one_line(
    words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["ablate", *words(*more, run="never")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
