"""The joint system: gradients against finite differences and closed forms, every mask source, and its state under attack."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, as_system, attacked, deep_copy

SIDE, CLASSES = 8, 5
BATCH = 3
SOURCES = list(MaskSource)
GREY_SOURCES = [source for source in SOURCES if source is not MaskSource.NONE]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def segmenter() -> nn.Module:
    """Smooth, small, with batch statistics."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Softplus(), nn.Conv2d(6, 1, 3, padding=1))


def classifier() -> nn.Module:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Softplus(), nn.Flatten())
    return nn.Sequential(body, nn.Linear(6 * SIDE * SIDE, CLASSES))


def system(source: MaskSource, *, fill: Fill = Fill.GREY, surrogate: str = "identity") -> TwoStage:
    config = MaskConfig(source=source, fill=fill, surrogate=surrogate, radius=1, shift=2, blur_sigma=1.0)
    return TwoStage(classifier(), masks=config, segmenter=segmenter(), mean_color=(0.3, 0.4, 0.6)).eval()


def batch(size: int = BATCH, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, MaskContext]:
    images = torch.rand(size, 3, SIDE, SIDE, dtype=dtype, generator=seeded(2))
    oracle = torch.zeros(size, 1, SIDE, SIDE, dtype=dtype)
    oracle[..., 2:6, 2:6] = 1
    oracle[..., 2, 2:6] = 0.4
    return images, MaskContext(oracle_masks=oracle, substitutes=oracle, sample_seeds=torch.arange(size) + 11)


def input_gradient(joined: TwoStage, images: Tensor, context: MaskContext, weights: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad((joined(leaf, context) * weights).sum(), leaf)[0]


# What it computes


@pytest.mark.parametrize("fill", list(Fill))
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_and_fill_is_the_parts_put_together_by_hand(source: MaskSource, fill: Fill) -> None:
    joined = system(source, fill=fill)
    images, context = batch()
    context = joined.freeze(images, context)
    masks = joined.masks(images, context)
    seen = joined.masked_images(images, masks, context)
    torch.testing.assert_close(joined(images, context), joined.classifier(seen), rtol=0, atol=1e-6)
    assert ((masks >= 0) & (masks <= 1)).all()
    colors = {Fill.BLACK: (0.0, 0.0, 0.0), Fill.GREY: (0.5, 0.5, 0.5), Fill.MEAN: (0.3, 0.4, 0.6)}
    if fill in colors:
        color = torch.tensor(colors[fill]).view(1, 3, 1, 1)
        torch.testing.assert_close(seen, masks * images + (1 - masks) * color, rtol=0, atol=2e-7)


def test_learned_frozen_and_hard_masks_are_the_segmenters_probability_and_its_threshold() -> None:
    images, _ = batch()
    logits = system(MaskSource.LEARNED).segmenter(images)
    assert torch.equal(system(MaskSource.LEARNED).masks(images), logits.sigmoid())
    assert torch.equal(system(MaskSource.LEARNED_HARD).masks(images), (logits > 0).float())
    frozen = system(MaskSource.FROZEN)
    context = frozen.freeze(images)
    assert torch.equal(frozen.masks(torch.rand_like(images), context), logits.sigmoid())


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_remembered_between_calls(source: MaskSource) -> None:
    joined = system(source, fill=Fill.NOISE)
    images, context = batch()
    context = joined.freeze(images, context)
    first = joined(images, context)
    joined(torch.rand_like(images), context._replace(sample_seeds=torch.arange(BATCH)))
    assert torch.equal(joined(images, context), first)


@pytest.mark.parametrize("source", SOURCES)
def test_the_logits_of_an_image_do_not_depend_on_its_batch(source: MaskSource) -> None:
    joined = system(source, fill=Fill.NOISE)
    images, context = batch()
    context = joined.freeze(images, context)
    together, masks = joined(images, context), joined.masks(images, context)
    for index in range(BATCH):
        only = torch.tensor([index])
        torch.testing.assert_close(joined(images[only], context.select(only))[0], together[index], rtol=0, atol=1e-5)
        if not source.is_learned:
            assert torch.equal(joined.masks(images[only], context.select(only))[0], masks[index])


# Gradients


@pytest.mark.parametrize("fill", [Fill.GREY, Fill.NOISE, Fill.BLUR])
@pytest.mark.parametrize("source", [source for source in SOURCES if source is not MaskSource.LEARNED_HARD])
def test_end_to_end_gradients_are_those_of_finite_differences(source: MaskSource, fill: Fill) -> None:
    joined = system(source, fill=fill).double()
    images, context = batch(1, dtype=torch.float64)
    context = joined.freeze(images, context)
    assert torch.autograd.gradcheck(lambda points: joined(points, context), (images.requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("surrogate", ["identity", "sigmoid"])
def test_a_hard_gate_passes_the_closed_form_of_its_surrogate_through_the_system(surrogate: str) -> None:
    # Segmenter a.x + b per pixel, classifier W.z: d logit / dx = W m + sum_c W_c (x_c - fill) g'(a.x + b) a.
    point_wise, linear = nn.Conv2d(3, 1, 1).double(), nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)).double()
    config = MaskConfig(source=MaskSource.LEARNED_HARD, surrogate=surrogate)
    joined = TwoStage(linear, masks=config, segmenter=point_wise).eval()
    images, _ = batch(2, dtype=torch.float64)
    logits = point_wise(images).detach()
    slope = torch.ones_like(logits) if surrogate == "identity" else logits.sigmoid() * (1 - logits.sigmoid())
    weight = linear[1].weight[0].detach().view(3, SIDE, SIDE)
    through_mask = (weight * (images - 0.5)).sum(1, keepdim=True) * slope * point_wise.weight.detach()
    one_hot = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(input_gradient(joined, images, MaskContext(), one_hot), weight * (logits > 0) + through_mask)


@pytest.mark.parametrize("source", SOURCES)
def test_no_arm_is_out_of_reach_a_batch_of_one_has_a_gradient_where_the_classifier_looks(source: MaskSource) -> None:
    joined = system(source)
    images, context = batch(1)
    context = joined.freeze(images, context)
    gradient = input_gradient(joined, images, context, torch.randn(CLASSES, generator=seeded(3))).abs().sum(1, keepdim=True)
    seen = joined.masks(images, context).expand_as(gradient) > 0
    assert (gradient[seen] > 0).all()
    if not source.is_learned:  # a learned mask lets the background act on the mask itself
        assert (gradient[~seen] == 0).all()
        assert seen.any()


def test_the_paths_add_up_to_the_whole_gradient() -> None:
    joined = system(MaskSource.LEARNED).double()
    images, _ = batch(dtype=torch.float64)
    paths = []
    for pixels, mask in ((True, False), (False, True)):
        leaf = images.clone().requires_grad_()
        masks = joined.masks(leaf if mask else images)
        logits = joined.classify(leaf if pixels else images, masks)
        paths.append(torch.autograd.grad(logits[:, 0].sum(), leaf)[0])
    one_hot = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(paths[0] + paths[1], input_gradient(joined, images, MaskContext(), one_hot))


def test_channels_last_images_stay_channels_last() -> None:
    images, context = batch()
    images = images.contiguous(memory_format=torch.channels_last)
    for fill in (Fill.GREY, Fill.BLUR):
        joined = system(MaskSource.LEARNED, fill=fill).to(memory_format=torch.channels_last)
        seen = joined.masked_images(images, joined.masks(images), context)
        assert seen.is_contiguous(memory_format=torch.channels_last)


# What it refuses


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD])
def test_a_learned_mask_without_a_segmenter_is_refused_when_the_system_is_built(source: MaskSource) -> None:
    with pytest.raises(ValueError, match=f"^the mask source '{source}' needs a segmenter$"):
        TwoStage(classifier(), masks=MaskConfig(source=source))


def test_other_sources_need_no_segmenter_and_say_so_only_when_asked_for_mask_logits() -> None:
    images, context = batch()
    joined = TwoStage(classifier(), masks=MaskConfig(source=MaskSource.ORACLE)).eval()
    assert joined(images, context).shape == (BATCH, CLASSES)
    with pytest.raises(ValueError, match="no segmenter"):
        joined.mask_logits(images)


def test_a_mean_fill_without_a_mean_and_a_frozen_mask_that_was_not_taken_are_refused() -> None:
    with pytest.raises(ValueError, match="mean color of the training images"):
        TwoStage(classifier(), masks=MaskConfig(source=MaskSource.ORACLE, fill=Fill.MEAN))
    with pytest.raises(ValueError, match="'frozen' needs frozen masks"):
        system(MaskSource.FROZEN)(*batch())


def test_a_color_that_is_none_is_refused() -> None:
    for color in ((128.0, 128.0, 128.0), (0.5, 0.5, -0.1), (0.5, 0.5, math.nan)):
        with pytest.raises(InputError, match=r"^the mean color is \([^\n]*\), expected red, green and blue in \[0,1\]$"):
            TwoStage(classifier(), masks="oracle", fill="mean", mean_color=color)
    for values in (np.full(3, 120), torch.full((4,), 0.5), torch.tensor(0.5)):
        with pytest.raises(InputError, match=r"^the mean color is [^\n]*, expected red, green and blue in \[0,1\]$"):
            TwoStage(classifier(), masks="oracle", fill="mean", mean_color=values)


@pytest.mark.parametrize("color", [torch.tensor([0.25, 0.5, 0.75]), np.array([0.25, 0.5, 0.75]), [0.25, np.float64(0.5), 0.75]])
def test_a_color_may_be_an_array(color: Any) -> None:
    expected = TwoStage(classifier(), masks="oracle", fill="mean", mean_color=(0.25, 0.5, 0.75))
    assert torch.equal(TwoStage(classifier(), masks="oracle", fill="mean", mean_color=color).color, expected.color)


def test_a_source_and_a_fill_by_name_are_the_configuration_written_out() -> None:
    images, context = batch()
    named = TwoStage(classifier(), segmenter=segmenter(), masks="learned-hard", fill="noise").eval()
    written = TwoStage(
        classifier(), segmenter=segmenter(), masks=MaskConfig(source=MaskSource.LEARNED_HARD, fill=Fill.NOISE)
    ).eval()
    assert named.mask_config == written.mask_config
    assert torch.equal(named(images, context), written(images, context))
    with pytest.raises(ValueError, match=r"^source: .*'oracle', 'learned'.* got 'learnt'"):
        TwoStage(classifier(), segmenter=segmenter(), masks="learnt")
    with pytest.raises(ValueError, match=r"^fill: .*'black', 'grey'.* got 'gray'"):
        TwoStage(classifier(), segmenter=segmenter(), fill="gray")


# Modes


def test_training_the_system_trains_the_classifier_and_leaves_the_segmenter_as_it_was() -> None:
    joined = system(MaskSource.LEARNED).train()
    before = {name: value.clone() for name, value in joined.segmenter.state_dict().items()}
    assert joined.classifier.training
    assert not any(part.training for part in joined.segmenter.modules())
    joined(*batch()).sum().backward()
    assert all(parameter.grad is not None for parameter in joined.classifier.parameters())
    assert all(parameter.grad is None for parameter in joined.segmenter.parameters())
    assert all(torch.equal(value, before[name]) for name, value in joined.segmenter.state_dict().items())


def test_the_weights_of_a_system_are_those_of_its_stages() -> None:
    assert {name.split(".")[0] for name in system(MaskSource.LEARNED).state_dict()} == {"classifier", "segmenter"}


@pytest.mark.parametrize("fails", [False, True])
def test_an_attacked_module_gets_every_mode_and_every_flag_back_also_after_an_exception(fails: bool) -> None:
    joined = system(MaskSource.LEARNED).train()
    joined.classifier[0][1].eval()  # batch statistics frozen by its owner
    joined.classifier[1].bias.requires_grad_(False)
    modes = {name: part.training for name, part in joined.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in joined.named_parameters()}
    try:
        with attacked(joined) as under_attack:
            assert under_attack is joined
            assert not any(part.training for part in joined.modules())
            assert not any(parameter.requires_grad for parameter in joined.parameters())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert {name: part.training for name, part in joined.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in joined.named_parameters()} == flags


def test_an_attacked_module_computes_in_float32_also_under_autocast() -> None:
    joined = system(MaskSource.LEARNED)
    images, context = batch()
    expected = joined(images, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(joined(images, context).float(), expected)
        with attacked(joined):
            assert torch.equal(joined(images, context), expected)
        assert joined(images, context).dtype == torch.bfloat16


def test_weights_in_half_precision_are_not_attacked() -> None:
    with pytest.raises(ValueError, match=r"float32 or wider, these are .*bfloat16"), attacked(classifier().bfloat16()):
        pass


def test_lightning_fabric_takes_a_system_and_its_context() -> None:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment

    fabric = Fabric(
        accelerator="cpu", devices=1, precision="bf16-mixed", plugins=[LightningEnvironment()]
    )  # whatever is on the PATH
    joined = system(MaskSource.LEARNED, fill=Fill.NOISE)
    images, context = batch()
    logits = fabric.setup(joined)(images, context)
    torch.testing.assert_close(logits.float(), joined(images, context), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_copy_of_a_scripted_module_can_be_attacked() -> None:
    scripted = torch.jit.script(classifier())
    copied = deep_copy(scripted)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with attacked(copied):
        assert torch.equal(copied(images), scripted.eval()(images))
    next(scripted.parameters()).data.zero_()
    assert next(copied.parameters()).any()


class CopiesAreItself(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiesAreItself":
        return self


class CopiesShareWeights(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiesShareWeights":
        other = CopiesShareWeights(self.in_features, self.out_features)
        other.weight = self.weight
        return other


@pytest.mark.parametrize("kind", [CopiesAreItself, CopiesShareWeights])
def test_a_copy_that_is_the_system_in_part_is_refused_in_one_line(kind: type[nn.Linear]) -> None:
    for module in (kind(3, 2), as_system(nn.Sequential(nn.Flatten(), kind(3, 2)))):
        with pytest.raises(InputError, match=r"^a deep copy of the system shares parts or weights with it: [^\n]*$"):
            deep_copy(module)


def test_a_module_without_weights_and_one_with_tied_ones_are_copied() -> None:
    assert isinstance(deep_copy(nn.Sequential(nn.Flatten(), nn.ReLU())), nn.Sequential)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    copied = deep_copy(tied)
    assert copied[1].weight is copied[0].weight
