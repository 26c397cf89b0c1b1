"""The classifier: architectures, stems, normalisation, weights and seed."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from classifier.config import Architecture, ClassifierConfig
from classifier.model import Classifier, build_classifier

SMALL = ClassifierConfig(width=4)
RESNETS: tuple[Architecture, ...] = ("resnet18", "resnet34", "resnet50")


def images_of(height: int, width: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), batch=st.integers(1, 3), num_classes=st.integers(2, 50))
def test_one_finite_logit_for_each_class_at_any_size(height: int, width: int, batch: int, num_classes: int) -> None:
    classifier = build_classifier(SMALL, num_classes=num_classes, seed=0).eval()
    logits = classifier(images_of(height, width, batch=batch))
    assert logits.shape == (batch, num_classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("architecture", RESNETS)
def test_a_resnet_with_the_imagenet_stem_is_torchvisions(architecture: Architecture) -> None:
    """The oracle is torchvision's own network with the weights of the same seed."""
    classifier = build_classifier(ClassifierConfig(architecture=architecture, stem="imagenet"), num_classes=7, seed=5).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = torchvision.models.get_model(architecture, num_classes=7).eval()
    images = images_of(64, 48)
    assert torch.equal(classifier(images), network((images - classifier.mean) / classifier.std))


@pytest.mark.parametrize("architecture", RESNETS)
def test_the_small_stem_changes_the_first_layers_and_nothing_else(architecture: Architecture) -> None:
    small = build_classifier(ClassifierConfig(architecture=architecture), num_classes=7, seed=0).state_dict()
    imagenet = build_classifier(ClassifierConfig(architecture=architecture, stem="imagenet"), num_classes=7, seed=0).state_dict()
    assert small.keys() == imagenet.keys()
    differing = {name for name in small if small[name].shape != imagenet[name].shape}
    assert differing == {"network.conv1.weight"}
    assert small["network.conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize(("stem", "side"), [("small", 32), ("imagenet", 8)])
def test_the_small_stem_keeps_every_pixel_and_the_imagenet_stem_a_quarter_of_the_side(stem: Any, side: int) -> None:
    classifier = build_classifier(ClassifierConfig(architecture="resnet18", stem=stem), num_classes=7, seed=0).eval()
    seen: list[torch.Size] = []
    classifier.network.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))  # type: ignore[operator, union-attr]
    classifier(images_of(32, 32))
    assert seen == [(2, 64, side, side)]


@pytest.mark.parametrize("width", [4, 16])
def test_the_small_resnet_has_the_parameters_that_its_description_counts(width: int) -> None:
    """Stem, then per block two 3 x 3 convolutions (and a 1 x 1 shortcut where it halves), batch norms, a linear layer."""
    stem = 27 * width + 2 * width
    first = 2 * 9 * width**2 + 2 * 2 * width
    halving = sum(9 * c * 2 * c + 9 * (2 * c) ** 2 + c * 2 * c + 3 * 2 * 2 * c for c in (width, 2 * width, 4 * width))
    linear = 8 * width * 10 + 10
    classifier = build_classifier(ClassifierConfig(width=width), num_classes=10, seed=0)
    assert num_parameters(classifier) == stem + first + halving + linear


def test_width_null_is_16() -> None:
    first, second = (build_classifier(ClassifierConfig(width=width), num_classes=3, seed=0) for width in (None, 16))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_normalisation_is_the_first_layer() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.4, 0.8)
    plain = build_classifier(ClassifierConfig(width=4, mean=(0, 0, 0), std=(1, 1, 1)), num_classes=5, seed=0).eval()
    normalising = build_classifier(ClassifierConfig(width=4, mean=mean, std=std), num_classes=5, seed=0).eval()
    images = images_of(32, 32)
    shifted = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalising(images), plain(shifted), rtol=1e-5, atol=1e-5)


def test_images_outside_the_unit_range_are_not_refused_because_inner_loops_step_there() -> None:
    assert build_classifier(SMALL, num_classes=5, seed=0).eval()(images_of(32, 32) * 4 - 2).isfinite().all()


def test_channels_last_changes_nothing_but_rounding() -> None:
    classifier = build_classifier(SMALL, num_classes=5, seed=0).eval()
    images = images_of(33, 47)
    contiguous = classifier(images)
    last = classifier.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, contiguous, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, ClassifierConfig(architecture="resnet18")], ids=["small_resnet", "resnet18"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config: ClassifierConfig) -> None:
    first, again, other = (build_classifier(config, num_classes=5, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if name.endswith("conv1.weight"))


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_classifier(SMALL, num_classes=5, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_go_round_through_a_strict_load_and_another_class_count_does_not_load() -> None:
    source, target = (build_classifier(SMALL, num_classes=5, seed=seed).eval() for seed in (0, 1))
    target.load_state_dict(source.state_dict(), strict=True)
    images = images_of(32, 32)
    assert torch.equal(target(images), source(images))
    with pytest.raises(RuntimeError, match="size mismatch"):
        build_classifier(SMALL, num_classes=6, seed=0).load_state_dict(source.state_dict(), strict=True)


@pytest.mark.parametrize("config", [SMALL, ClassifierConfig(architecture="resnet18")], ids=["small_resnet", "resnet18"])
def test_every_parameter_gets_a_gradient_in_train_mode(config: ClassifierConfig) -> None:
    classifier = build_classifier(config, num_classes=5, seed=0)
    assert all(module.training for module in classifier.modules())
    classifier(images_of(16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_2_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match=rf"^a classifier needs 2 classes or more, not {num_classes}$"):
        build_classifier(SMALL, num_classes=num_classes, seed=0)


IMAGENET = ClassifierConfig(architecture="resnet18", stem="imagenet", weights="imagenet")


def test_imagenet_weights_fill_all_layers_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: downloaded)
    classifier = build_classifier(IMAGENET, num_classes=7, seed=0)
    loaded = classifier.network.state_dict()
    assert all(torch.equal(loaded[name], downloaded[name]) for name in downloaded if not name.startswith("fc."))
    assert loaded["fc.weight"].shape == (7, 512)
    assert classifier(images_of(64, 64)).shape == (2, 7)


def test_weights_that_cannot_be_had_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> dict[str, Tensor]:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(
        ValueError, match=r"^the imagenet weights of resnet18 [^\n]*https://[^\n]*checkpoints, or set weights to null[^\n]*$"
    ):
        build_classifier(IMAGENET, num_classes=7, seed=0)


TIMM = ClassifierConfig(architecture="timm", name="tf_efficientnet_lite0")


def test_a_network_of_timm_is_what_timm_makes_of_the_name_and_the_seed() -> None:
    classifier = build_classifier(TIMM, num_classes=7, seed=5).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = timm.create_model("tf_efficientnet_lite0", num_classes=7).eval()
    images = images_of(64, 64)
    assert torch.equal(classifier(images), network(images * 2 - 1))  # its published weights expect mean = std = 0.5
    assert classifier(images).shape == (2, 7)


def test_a_new_last_layer_on_published_features_is_drawn_within_their_number_and_not_within_that_of_the_classes() -> None:
    config = ClassifierConfig(architecture="timm", name="tf_efficientnet_lite0", weights="a.pth", weights_sha256="0" * 64)
    last = build_classifier(config, num_classes=9, seed=0, initialise=lambda *_: None).network.get_submodule("classifier")
    assert isinstance(last, torch.nn.Linear)
    assert last.weight.detach().abs().max() == pytest.approx(1 / last.in_features**0.5, rel=1e-3)  # the draws nearly fill the range
    untouched = build_classifier(TIMM, num_classes=9, seed=0).network.get_submodule("classifier")
    assert untouched.weight.detach().abs().max() == pytest.approx(1 / 9**0.5, rel=1e-3)  # timm's own, where nothing was published


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnext_atom", r"timm has no network 'convnext_atom': did you mean convnext_atto"),
        ("%", r"timm has no network '%': it may be one of "),
        ("tf_efficientnet_lite0.nowhere", r"timm does not make tf_efficientnet_lite0\.nowhere with weights imagenet: "),
    ],
)
def test_a_network_that_timm_does_not_have_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*$"):
        build_classifier(ClassifierConfig(architecture="timm", name=name, weights="imagenet"), num_classes=5, seed=0)


def test_a_file_of_weights_is_never_left_out_in_silence() -> None:
    config = ClassifierConfig(architecture="timm", name="convnext_atto", weights="a.pth", weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"^weights=a\.pth: a file goes with the function "):
        build_classifier(config, num_classes=5, seed=0)


def test_finite_differences_agree_with_the_gradient_through_the_normalisation() -> None:
    classifier: Classifier = build_classifier(SMALL, num_classes=5, seed=0).eval().double()
    image = images_of(9, 7, batch=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(image)[0, 2], image)
    direction = torch.rand(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        difference = (classifier(image + 1e-7 * direction) - classifier(image - 1e-7 * direction))[0, 2] / 2e-7
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-7)
