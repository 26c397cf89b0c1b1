"""The segmenter: sizes, padding, normalisation, what it is made of, and its seed."""

from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segmenter.config import Architecture, SegmenterConfig
from segmenter.model import Segmenter, build_segmenter

SMALL = SegmenterConfig(decoder_channels=(8, 8, 4))
DEPTH_5 = SegmenterConfig(encoder_depth=5, decoder_channels=(32, 16, 16, 8, 8))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return build_segmenter(SMALL, seed=0).eval()


def images_of(height: int, width: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


class Brightness(nn.Module):
    """Stands in for the U-Net: logits that are a known function of each pixel; remembers the size it saw."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.shape[-2:]
        return images.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("config", [SMALL, DEPTH_5], ids=["depth 3", "depth 5"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 33), (48, 48), (64, 64), (65, 47), (1, 1), (1, 40)])
def test_logits_have_the_size_of_the_images_at_any_size(config: SegmenterConfig, height: int, width: int) -> None:
    segmenter = build_segmenter(config, seed=0).eval()
    logits = segmenter(images_of(height, width))
    assert logits.shape == (2, 1, height, width)
    assert logits.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), depth=st.integers(3, 5))
def test_padding_moves_no_pixel(height: int, width: int, depth: int) -> None:
    unet = Brightness()
    segmenter = Segmenter(unet, stride=2**depth, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = images_of(height, width)
    assert torch.equal(segmenter(images), images.sum(dim=1, keepdim=True))
    assert all(side % 2**depth == 0 for side in unet.seen)
    assert unet.seen[0] - height < 2**depth
    assert unet.seen[1] - width < 2**depth


def test_the_logits_of_an_odd_size_are_those_of_the_image_extended_by_hand(segmenter: Segmenter) -> None:
    images = images_of(33, 21)
    rows, columns = torch.arange(40).clamp_max(32), torch.arange(24).clamp_max(20)
    extended = images[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(segmenter(images), segmenter(extended)[..., :33, :21], rtol=0, atol=1e-6)


def test_normalisation_is_the_first_layer() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.4, 0.8)
    plain = build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 4), mean=(0, 0, 0), std=(1, 1, 1)), seed=0).eval()
    normalising = build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 4), mean=mean, std=std), seed=0).eval()
    images = images_of(32, 32)
    shifted = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalising(images), plain(shifted), rtol=1e-5, atol=1e-5)


def test_images_outside_the_unit_range_are_not_refused_because_inner_loops_step_there(segmenter: Segmenter) -> None:
    assert segmenter(images_of(32, 32) * 4 - 2).isfinite().all()


def test_channels_last_changes_nothing_but_rounding() -> None:
    segmenter = build_segmenter(SMALL, seed=0).eval()
    images = images_of(33, 47)
    contiguous = segmenter(images)
    last = segmenter.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, contiguous, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "depth"),
    [("resnet18", 3), ("resnet18", 5), ("mobilenet_v2", 3), ("efficientnet-b0", 3), ("tu-convnext_atto", 4), ("mit_b0", 3)],
)
def test_what_was_removed_did_nothing_and_all_that_is_left_learns(encoder: str, depth: int) -> None:
    """The oracle is smp's own U-Net with the weights of the same seed."""
    channels = (16, 16, 8, 8, 8)[:depth]
    segmenter = build_segmenter(SegmenterConfig(encoder=encoder, encoder_depth=depth, decoder_channels=channels), seed=5).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        whole = smp.Unet(encoder, encoder_depth=depth, encoder_weights=None, decoder_channels=channels).eval()
    images = images_of(64, 64)
    logits = segmenter(images)
    assert torch.equal(logits, whole((images - segmenter.mean) / segmenter.std))
    logits.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in segmenter.parameters())


ARCHITECTURES = [
    pytest.param(name, 4, marks=pytest.mark.slow) if name == "dpt" else (name, 3)  # a vision transformer
    for name in get_args(Architecture)
]


@pytest.mark.parametrize(("architecture", "depth"), [*ARCHITECTURES, ("fpn", 5), ("pspnet", 4), ("pan", 5)])
def test_every_architecture_gives_one_logit_a_pixel_and_all_that_is_left_learns(architecture: Architecture, depth: int) -> None:
    encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
    side = 224 if architecture == "dpt" else 130  # no multiple of a stride, and large enough for the pooling of PAN
    segmenter = build_segmenter(SegmenterConfig(architecture=architecture, encoder=encoder, encoder_depth=depth), seed=0).eval()
    logits = segmenter(images_of(side, side))
    assert logits.shape == (2, 1, side, side)
    logits.sum().backward()
    parameters = list(segmenter.parameters())
    assert parameters
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in parameters)


def test_one_number_of_decoder_channels_is_the_width_of_the_decoder() -> None:
    narrow = build_segmenter(SegmenterConfig(architecture="deeplabv3plus", decoder_channels=(8,)), seed=0).eval()
    assert narrow.unet.segmentation_head[0].in_channels == 8  # type: ignore[union-attr, index]


def test_the_normalisation_is_what_the_published_weights_of_the_encoder_expect() -> None:
    """The oracle is the statement of timm: lite0 was trained on inputs of mean and standard deviation 0.5."""
    lite, usual = (build_segmenter(SegmenterConfig(encoder=name), seed=0) for name in ("tu-tf_efficientnet_lite0", "resnet18"))
    assert lite.mean.flatten().tolist() == lite.std.flatten().tolist() == [0.5, 0.5, 0.5]
    torch.testing.assert_close(usual.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_a_file_of_weights_is_never_left_out_in_silence() -> None:
    config = SegmenterConfig(encoder_weights="a.pth", encoder_weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"^encoder_weights=a\.pth: a file goes with the function "):
        build_segmenter(config, seed=0)


def test_a_resnet_keeps_no_stage_beyond_its_depth() -> None:
    names = {name.split(".")[2] for name in build_segmenter(SMALL, seed=0).state_dict() if name.startswith("unet.encoder.")}
    assert names == {"conv1", "bn1", "layer1", "layer2"}
    assert all(parameter.requires_grad for parameter in build_segmenter(SMALL, seed=0).parameters())


def test_a_batch_of_one_trains_at_32_pixels_at_depth_3_but_not_at_depth_5() -> None:
    image = images_of(32, 32, batch=1)
    assert build_segmenter(SMALL, seed=0)(image).isfinite().all()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        build_segmenter(DEPTH_5, seed=0)(image)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (build_segmenter(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["unet.encoder.conv1.weight"], other["unet.encoder.conv1.weight"])
    assert not torch.equal(first["unet.segmentation_head.0.weight"], other["unet.segmentation_head.0.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_segmenter(SMALL, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_segmenter_built_without_gradients_is_the_same_and_can_learn(context: type) -> None:
    with context():
        built = build_segmenter(SMALL, seed=0)
    usual = build_segmenter(SMALL, seed=0).state_dict()
    assert all(torch.equal(value, usual[name]) for name, value in built.state_dict().items())
    built(images_of(32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_weights_go_round_through_a_strict_load() -> None:
    source, target = (build_segmenter(SMALL, seed=seed).eval() for seed in (0, 1))
    target.load_state_dict(source.state_dict(), strict=True)
    images = images_of(32, 32)
    assert torch.equal(target(images), source(images))
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_state_dict({name: value for name, value in source.state_dict().items() if name != "mean"}, strict=True)


def test_a_new_segmenter_is_in_train_mode_with_parameters_that_learn() -> None:
    segmenter = build_segmenter(SMALL, seed=0)
    assert all(module.training for module in segmenter.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in segmenter.parameters())
    assert all(not buffer.any() for name, buffer in segmenter.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("resnet81", r"'resnet81' does not exist: did you mean resnet18 or "),
        ("convnext_atto", r"'convnext_atto' does not exist: did you mean tu-convnext_atto or "),
        ("%", r"'%' does not exist: it may be one of resnet18, "),
        ("tu-vit_tiny_patch16_224", r"'tu-vit_tiny_patch16_224' with encoder_depth 3 .* does not make a unet: Unsupported model"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused_in_one_line(encoder: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^segmenter encoder {said}[^\n]*$"):
        build_segmenter(SegmenterConfig(encoder=encoder), seed=0)


def test_weights_that_cannot_be_had_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise FileNotFoundError("no network")  # the hub's LocalEntryNotFoundError is one

    monkeypatch.setattr(smp.encoders, "hf_hub_download", unreachable)
    with pytest.raises(ValueError, match=r"^the imagenet weights of segmenter encoder 'resnet18' [^\n]*HF_HOME[^\n]*null$"):
        build_segmenter(SegmenterConfig(encoder_weights="imagenet"), seed=0)


def test_an_encoder_without_imagenet_weights_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^segmenter encoder 'tu-test_resnet\.nowhere' [^\n]*imagenet does not make a unet: [^\n]*$"
    ):
        build_segmenter(SegmenterConfig(encoder="tu-test_resnet.nowhere", encoder_weights="imagenet"), seed=0)


def test_finite_differences_agree_with_the_gradient_through_padding_and_normalisation() -> None:
    segmenter = build_segmenter(SMALL, seed=0).eval().double()
    image = images_of(9, 7, batch=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(segmenter(image).sum(), image)
    direction = torch.rand(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        difference = (segmenter(image + 1e-7 * direction) - segmenter(image - 1e-7 * direction)).sum() / 2e-7
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-7)
