"""``load_system`` and ``predict`` from Python: the systems and the answers of the commands."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline import TwoStage, load_system, predict
from pipeline.config import to_plain
from pipeline.errors import CheckpointError, ConfigError, InputError
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.files import write_sealed
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(3, 1, 32, 32)
MASKS[:, :, 8:24, 4:20] = 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """Two stages with their initial weights, the classifier "trained" on the oracle, and an ablation of two arms."""
    path = tmp_path_factory.mktemp("runs")
    config = {"masks": {"source": "oracle", "fill": "black"}, "prepared": "nowhere"}
    tiny.save_stages(path, config=config, classes=("a", "b", "c"))
    arms = [
        {
            "name": f"natural {source}",
            "role": "main",
            "seed": 0,
            "evaluation": "evaluation",
            "classifier_objective": "natural",
            "segmenter_objective": "natural",
            "classifier": "../classifier",
            "segmenter": "../segmenter",
            "train_masks": "oracle",
            "test_masks": source,
            "masks": to_plain(MaskConfig(source=MaskSource(source))),
        }
        for source in ("learned", "oracle")
    ]
    (path / "ablation").mkdir()
    about = {"experiment": "by hand", "finished": True, "arms": arms, "config": {}}
    write_sealed(path / "ablation" / "ablation.json", about, version=1)
    return path


def by_hand(source: str, fill: str) -> TwoStage:
    classifier = build_classifier(ClassifierConfig(width=4), num_classes=3, seed=0)
    return TwoStage(
        classifier, segmenter=build_segmenter(SegmenterConfig(decoder_channels=(16, 8, 8)), seed=0), masks=source, fill=fill
    ).eval()


@pytest.mark.parametrize(
    ("run", "options", "source", "fill"),
    [
        ("classifier", {}, "oracle", "black"),
        ("classifier", {"masks": {"source": "learned", "fill": "grey"}, "segmenter_run": "segmenter"}, "learned", "grey"),
        ("ablation", {}, "learned", "grey"),
        ("ablation", {"arm": "natural oracle"}, "oracle", "grey"),
        ("ablation", {"arm": "natural learned", "masks": {"fill": "black"}}, "learned", "black"),
    ],
)
def test_a_system_comes_back_from_its_run_and_says_what_its_stages_say(
    runs: Path, run: str, options: dict[str, object], source: str, fill: str
) -> None:
    options = {key: runs / str(value) if key == "segmenter_run" else value for key, value in options.items()}
    system = load_system(runs / run, **options)  # type: ignore[arg-type]
    assert not any(module.training for module in system.modules())
    found, expected = (predict(one, IMAGES, masks=MASKS) for one in (system, by_hand(source, fill)))
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.confidences, expected.confidences, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.masks, expected.masks, rtol=1e-5, atol=1e-5)
    if source == "oracle":
        assert torch.equal(found.masks, MASKS)


def test_what_is_not_there_is_refused_in_one_line(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"no arm 'natural learnt' is finished: did you mean 'natural learned' or [^\n]*$"):
        load_system(runs / "ablation", arm="natural learnt")
    with pytest.raises(ConfigError, match=r"is no ablation, so it has no arm 'natural learned': leave arm out$"):
        load_system(runs / "classifier", arm="natural learned")
    with pytest.raises(ConfigError, match=r"fill: [^\n]*$"):
        load_system(runs / "classifier", masks={"fill": "gray"})
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file or directory"):
        load_system(runs / "nothing")
    for device in ("gpu", "cuda:99", "meta-device"):
        with pytest.raises(ConfigError, match=rf"^device: '{device}' cannot be used: [^\n]*$"):
            load_system(runs / "classifier", device=device)
    for run in ("", "a\0b"):
        with pytest.raises(ConfigError, match=r"^run: [^\n]*$"):
            load_system(run)


def test_a_bare_module_predicts_without_a_mask_and_keeps_its_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 32 * 32, 5)).train()
    found = predict(model, IMAGES)
    assert model.training
    with torch.no_grad():
        probabilities = model.eval()(IMAGES).softmax(dim=1)
    assert torch.equal(found.labels, probabilities.argmax(dim=1))
    assert torch.equal(found.confidences, probabilities.max(dim=1).values)
    assert torch.equal(found.masks, torch.ones(3, 1, 32, 32))


class Softmax(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :5].softmax(dim=1)


class BlindLater(nn.Module):
    """No answer to any image but the first."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :5] / (torch.arange(len(images)) < 1).float()[:, None]


def test_answers_of_all_images_are_checked_and_probabilities_are_doubted() -> None:
    with pytest.raises(InputError, match="the model returns values that are not finite"):
        predict(BlindLater(), IMAGES)
    with pytest.warns(UserWarning, match="look like probabilities"):
        predict(Softmax(), IMAGES)


def test_a_loaded_system_knows_the_size_that_it_was_trained_on(runs: Path) -> None:
    system = load_system(runs / "classifier", masks={"source": "none"})
    assert system.image_size is not None
    larger = torch.rand(2, 3, system.image_size + 16, system.image_size + 16)
    with pytest.warns(UserWarning, match=f"was trained on images of {system.image_size} x {system.image_size} pixels"):
        predict(system, larger)


def test_images_and_outputs_are_checked() -> None:
    with pytest.raises(InputError, match="divide them by 255"):
        predict(nn.Flatten(), IMAGES * 255)
    with pytest.raises(InputError, match=r"the model returns the shape \(1, 3, 32, 32\) for 1 images"):
        predict(nn.Identity(), IMAGES)
