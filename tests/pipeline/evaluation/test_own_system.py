"""``foreguard evaluate system=module:callable``: somebody's own model, found, built, attacked and reported by its import path."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from polars.testing import assert_frame_equal

from pipeline import evaluate, load_system
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.errors import RunError
from pipeline.evaluation.own_system import build_own, load_own, system_digest
from pipeline.evaluation.records import read_records
from pipeline.evaluation.summary import Summary
from pipeline.runs.checkpoints import state_digest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MODELS = """
import torch
from torch import nn

from pipeline import TwoStage


class Net(nn.Module):
    def __init__(self, num_classes=NUM_CLASSES, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, num_classes))

    def forward(self, images):
        return self.body(images)


class Changed(Net):
    def forward(self, images):
        return self.change(super().forward(images))


def changed(change):
    net = Changed()
    net.change = change
    return net


def two_stage():
    net = Net()
    return TwoStage(net, segmenter=nn.Conv2d(3, 1, 3, padding=1), masks="learned", fill="grey")


def other_weights():
    return Net(seed=1)


def few_classes():
    return Net(num_classes=2)


def probabilities():
    return changed(lambda logits: logits.softmax(dim=1))


def a_tuple():
    return changed(lambda logits: (logits, logits))


def whole():
    return changed(lambda logits: (logits * 100).long())


def raising():
    return changed(lambda logits: {}["no_such_stage"])


def of_eight():
    return changed(lambda logits: logits.view(8, -1))


class Exported(Net):
    def train(self, mode=True):
        raise NotImplementedError("Calling train() is not supported yet.")


def maps():
    return changed(lambda logits: logits[:, :, None, None])


def with_arguments(path, device="cpu"):
    return Net()


def failing():
    raise FileNotFoundError("no weights at weights.pth\\nsorry")


def leaving():
    raise SystemExit("my module wants DATA_DIR")


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(NUM_CLASSES))


def on_meta():
    with torch.device("meta"):
        return Net()


def no_module():
    return lambda images: images


number = 3
instance = Net()
"""
ATTACK = ["attack=quickstart", "attack.threat.epsilons=[2/255,8/255]", "gallery_images=2", "max_images=12", "accelerator=cpu"]


@pytest.fixture
def models(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of models."""
    content = MODELS.replace("NUM_CLASSES", str(open_prepared(synthetic_set).num_classes))
    (tmp_path / "own_models.py").write_text(content)
    (tmp_path / "broken.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("own_models", "broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def command(synthetic_set: Path, models: Path) -> Callable[..., int]:
    return lambda *words: main(["evaluate", f"prepared={synthetic_set}", f"run={models / 'run'}", *ATTACK, *words])


@pytest.mark.parametrize(("name", "source"), [("Net", "none"), ("two_stage", "learned")])
def test_a_model_of_ones_own_is_evaluated_and_named_wherever_its_figures_stand(
    command: Callable[..., int],
    models: Path,
    synthetic_set: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    source: str,
) -> None:
    assert command(f"system=own_models:{name}") == 0
    shown = capsys.readouterr().out
    assert f"test images; own_models:{name}, masks {source}" in shown
    summary = Summary.read(models / "run" / "summary.json")
    assert (summary.own, summary.mask_source, summary.masks) == (f"own_models:{name}", source, None)
    import own_models  # type: ignore[import-not-found]

    result = evaluate(getattr(own_models, name)(), synthetic_set, epsilons=["2/255", "8/255"], attacks="quickstart", max_images=12)
    order = ["epsilon", "attack", "sample_id"]
    recorded = read_records(models / "run")
    assert set(recorded["attack"]) == ({"pgd", "apgd-targeted"} if source == "none" else {"pgd", "apgd-targeted", "joint-collapse"})
    same = [column for column in recorded.columns if column not in ("seconds", "system")]
    assert_frame_equal(result.outcomes.select(same).sort(order), recorded.select(same).sort(order), check_exact=True)
    with pytest.raises(RunError, match=rf"the system that was attacked is own_models:{name}, which no run holds: import it$"):
        load_system(models / "run")
    assert main(["report", f"run={models / 'run'}"]) == 0
    assert f"own_models:{name}" in (models / "run" / "report" / "index.html").read_text(encoding="utf-8")


ANOTHER_ORDER = """
import torch
from torch import nn

from pipeline.data.dataset import open_prepared


class Neighbors(nn.Module):
    \"""The class of the nearest image of the data, counted from STEP, of images from 0 to WHITE.\"""

    def __init__(self):
        super().__init__()
        data = open_prepared(PATH)
        self.register_buffer("known", torch.tensor(data.images[:]).float().permute(0, 3, 1, 2).flatten(1) * WHITE / 255)
        self.register_buffer("said", (torch.tensor(data.labels[:]) + STEP) % data.num_classes)
        self.num_classes = data.num_classes

    def forward(self, images):
        near = -(images.flatten(1)[:, None] - self.known).square().sum(dim=2)
        of_class = [near[:, self.said == number].max(dim=1).values for number in range(self.num_classes)]
        return torch.stack(of_class, dim=1)
"""


@pytest.mark.parametrize(
    ("step", "white", "said"),
    [
        (0, 1, None),
        (1, 1, "0% of the images are right, and 100% would be if labels are in another order than the system's classes"),
        (0, 255, "given from 0 to 255: if it was trained so, do that in its first layer"),
    ],
    ids=["right", "classes in another order", "images in another range"],
)
def test_classes_and_images_that_are_not_the_datas_are_named(
    command: Callable[..., int],
    models: Path,
    synthetic_set: Path,
    capsys: pytest.CaptureFixture[str],
    step: int,
    white: int,
    said: str | None,
) -> None:
    words = {"PATH": f"__import__('pathlib').Path({str(synthetic_set)!r})", "STEP": str(step), "WHITE": str(white)}
    (models / "in_order.py").write_text(functools.reduce(lambda text, word: text.replace(*word), words.items(), ANOTHER_ORDER))
    settings = ("max_images=null", "gallery_images=0", "attack.threat.epsilons=[1/255]", "sanity=false")
    try:
        assert command("system=in_order:Neighbors", *settings) == 0
    finally:
        sys.modules.pop("in_order", None)
    doubts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BEWARE: ")]
    assert any(said is not None and said in doubt for doubt in doubts) == bool(doubts) == (said is not None)


def test_sanity_checks_run_on_it(command: Callable[..., int], models: Path) -> None:
    assert command("system=own_models:Net", "sanity=true", "sanity_images=4", "~attack.attacks.joint-collapse") == 0
    names = [check["name"] for check in json.loads((models / "run" / "sanity.json").read_text())["checks"]]
    assert "zero gradients, pixel path" in names


def test_a_run_is_continued_with_the_same_weights_and_path_only(
    command: Callable[..., int], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("system=own_models:Net") == 0
    assert command("system=own_models:Net", "resume=true") == 0
    capsys.readouterr()
    assert command("system=own_models:other_weights", "resume=true") == 2
    assert "system=" in capsys.readouterr().err
    (models / "own_models.py").write_text((models / "own_models.py").read_text().replace("seed=0", "seed=5"))
    sys.modules.pop("own_models")
    assert command("system=own_models:Net", "resume=true") == 2
    assert "the system is not the one that the run was begun with" in capsys.readouterr().err


def test_weights_and_path_decide_what_it_is(models: Path, synthetic_set: Path) -> None:
    del models
    dataset, device = open_prepared(synthetic_set), torch.device("cpu")
    one, again, other = (load_own(f"own_models:{name}", dataset=dataset, device=device) for name in ("Net", "Net", "other_weights"))
    assert one.system_id == again.system_id
    assert one.inputs["system"] != other.inputs["system"]
    assert not any(module.training for module in one.system.modules())


def test_what_a_forward_pass_says_when_it_ends_the_process_is_shown(
    command: Callable[..., int], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (models / "own_models.py").open("a") as file:
        file.write("\n\nimport sys\n\ndef late():\n    return changed(lambda logits: sys.exit('my module wants DATA_DIR'))\n")
    assert command("system=own_models:late") == 1
    assert capsys.readouterr().err == "my module wants DATA_DIR\n"


@pytest.mark.parametrize("changed", ["builder", "layers"])
def test_code_that_computes_something_else_with_the_same_state_is_another_system(
    models: Path, synthetic_set: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The forward pass of a layer, or how the builder puts layers together."""
    (models / "layers.py").write_text(
        "from torch import nn\n\nclass Scaled(nn.Linear):\n"
        "    def forward(self, images):\n        return 2.0 * super().forward(images)\n"
    )
    (models / "builder.py").write_text(
        "import torch\nfrom torch import nn\nfrom layers import Scaled\n\ndef build():\n    torch.manual_seed(0)\n"
        f"    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), Scaled(12, {open_prepared(synthetic_set).num_classes}))\n"
    )

    def digest() -> str:
        for name in ("builder", "layers"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        module = build_own("builder:build")
        assert state_digest(module) == states.setdefault("first", state_digest(module))
        return system_digest("builder:build", module)

    states: dict[str, str] = {}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = digest()
    assert digest() == before
    source = models / f"{changed}.py"
    source.write_text(source.read_text().replace("AdaptiveAvgPool2d", "AdaptiveMaxPool2d").replace("2.0", "3.0"))
    assert digest() != before


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("own_models", "expected MODULE:CALLABLE, as in my_package.module:build"),
        ("own models:Net", "expected MODULE:CALLABLE"),
        ("no_such_module:build", "there is no module no_such_module, neither in "),
        ("own_models.inner:build", "there is no module own_models.inner, neither in "),
        ("broken:build", "importing broken fails: ModuleNotFoundError: No module named 'a_library_that_nobody_has'"),
        ("own_models:Nett", "own_models has no Nett; did you mean Net?"),
        ("own_models:number", "is a int; expected a function or class that returns the module"),
        ("own_models:instance", "is a Net; expected a function or class that returns the module"),
        ("own_models:with_arguments", "needs arguments (path); name a function that needs none and calls it"),
        ("own_models:failing", "fails: FileNotFoundError: no weights at weights.pth sorry"),
        ("own_models:leaving", "fails: SystemExit: my module wants DATA_DIR"),
        ("own_models:no_module", "returns a function; expected a torch.nn.Module from images to logits"),
        ("own_models:lazy", "its 1.weight has no values yet: run it on an image, or load its weights"),
        ("own_models:on_meta", "its body.2.weight has no values yet: run it on an image, or load its weights"),
        ("own_models:few_classes", "has 2 classes, and "),
        ("own_models:a_tuple", "the model returns a tuple of 2, not a tensor"),
        ("own_models:whole", "the model returns torch.int64, expected logits: dense floats"),
        ("own_models:raising", "the system does not take images (8, 3, "),
        ("own_models:maps", "the model returns the shape (8, "),
        ("own_models:of_eight", "the system has to take batches of any size, for attacks leave images out ("),
        ("own_models:Exported", "the system cannot be attacked: Calling train() is not supported yet"),
        ("own_models:probabilities", "the outputs look like probabilities"),
    ],
)
def test_what_cannot_be_attacked_is_one_line_and_exit_code_2(
    command: Callable[..., int], models: Path, capsys: pytest.CaptureFixture[str], system: str, said: str
) -> None:
    assert command(f"system='{system}'" if " " in system else f"system={system}") == 2
    error = capsys.readouterr().err
    assert f"system={system}: {said}" in error
    assert len(error.strip().splitlines()) == 1
    assert not (models / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say either classifier_run=..., a trained system, or system=MODULE:CALLABLE"),
        (["system=own_models:Net", "classifier_run=runs/c"], "say either classifier_run=..., a trained system, or system="),
        (["system=own_models:Net", "segmenter_run=runs/s"], "segmenter_run is a setting of trained systems"),
        (["system=own_models:Net", "masks.source=learned"], "masks is a setting of trained systems"),
    ],
)
def test_a_system_of_ones_own_takes_the_place_of_the_runs(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
