"""Systems that look more robust than they are, each by one trick, built around an honest one of a few hundred weights."""

import copy
import hashlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.diagnostics.probing import logits_of
from pipeline.attacks.start import AttackBatch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, as_system

SIDE, CLASSES, IMAGES = 12, 4, 8

Trick = Callable[["Tricky", Tensor], Tensor]
"""(the system, images) to logits; ``system.honest`` gives the honest ones."""


class Tricky(nn.Module):
    """An honest network behind a trick."""

    def __init__(self, honest: nn.Module, trick: Trick) -> None:
        super().__init__()
        self.honest, self.trick, self.calls, self.is_copy = honest, trick, 0, False

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.trick(self, images)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tricky":
        other = Tricky(copy.deepcopy(self.honest, memo), self.trick)
        other.calls, other.is_copy = self.calls, True
        memo[id(self)] = other
        return other.train(self.training)


def honest_batch(source: MaskSource = MaskSource.NONE, kind: type[TwoStage] = TwoStage) -> AttackBatch:
    """Images with the labels that an honest system gives them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 3, padding=1))
        body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        network = nn.Sequential(body, nn.Linear(8 * 25, CLASSES))
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(IMAGES, 1, SIDE, SIDE)
    masks[:, :, 3:9, 2:10] = 1
    system = kind(network, masks=MaskConfig(source=source), segmenter=segmenter).eval()
    context = system.freeze(images, MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=torch.arange(IMAGES)))
    plain = TwoStage(network, masks=MaskConfig(source=source), segmenter=segmenter).eval()
    with torch.no_grad():
        segmenter[2].bias -= segmenter(images).mean()
        segmenter[2].weight *= 4
        context = plain.freeze(images, context)
        network[1].bias -= plain(images, context).mean(dim=0)  # so that all classes occur
        gain = 3 / plain(images, context).abs().mean()  # as sure as a trained network
        network[1].weight *= gain
        network[1].bias *= gain
        labels = plain(images, context).argmax(dim=1)
    return AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(IMAGES))


def tricky_batch(trick: Trick) -> AttackBatch:
    """The honest network without a mask, behind a trick; labels are what the cheat says of the images."""
    batch = honest_batch()
    assert isinstance(batch.system, TwoStage)
    cheating = replace(batch, system=as_system(Tricky(batch.system.classifier, trick).eval()), context=None)
    return replace(cheating, labels=logits_of(cheating).argmax(dim=1))


# The weak forms: the trick on some images, at some times, or by half.


def near_the_boundary(trick: Trick) -> Trick:
    """Where the two likeliest classes differ by little."""
    return _where(trick, lambda logits: _gap(logits) < 1.0)


def on_some_classes(trick: Trick) -> Trick:
    """Where the honest answer is one of two classes."""
    return _where(trick, lambda logits: logits.argmax(dim=1) < 2)


def in_large_batches(trick: Trick) -> Trick:
    """Where 32 images or more are asked about together."""
    return lambda system, images: trick(system, images) if len(images) >= 32 else system.honest(images)


def by_half(trick: Trick) -> Trick:
    """The mean of the trick's logits and the honest ones."""
    return lambda system, images: (trick(system, images) + system.honest(images)) / 2


def with_a_dead_class(trick: Trick) -> Trick:
    """One class more, which is ruled out by a constant."""
    return _with_class(trick, -1e6)


def with_a_forbidden_class(trick: Trick) -> Trick:
    """The same by minus infinity."""
    return _with_class(trick, -torch.inf)


def _with_class(trick: Trick, value: float) -> Trick:
    return lambda system, images: torch.cat([trick(system, images), images.new_full((len(images), 1), value)], dim=1)


def nothing(system: Tricky, images: Tensor) -> Tensor:
    """No trick at all."""
    logits: Tensor = system.honest(images)
    return logits


def _where(trick: Trick, chosen: Callable[[Tensor], Tensor]) -> Trick:
    def mixed(system: Tricky, images: Tensor) -> Tensor:
        honest = system.honest(images)
        return torch.where(chosen(honest.detach())[:, None], trick(system, images), honest)

    return mixed


def _gap(logits: Tensor) -> Tensor:
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return first - second


# The tricks.


def rounded_pixels(system: Tricky, images: Tensor) -> Tensor:
    return system.honest((images * 16).round() / 16)


def one_hot_answer(system: Tricky, images: Tensor) -> Tensor:
    return functional.one_hot(system.honest(images).argmax(dim=1), CLASSES).to(images.dtype)


def detached_straight_through(system: Tricky, images: Tensor) -> Tensor:
    """Forwards honest, backwards another function."""
    other = images.flatten(2).sin().mean(dim=2) @ torch.eye(3, CLASSES, dtype=images.dtype)
    return system.honest(images).detach() + other - other.detach()


def saturated_temperature(system: Tricky, images: Tensor) -> Tensor:
    return (1e4 * system.honest(images)).softmax(dim=1)


def exploding_logits(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images) * 3e38


def swamped_logits(system: Tricky, images: Tensor) -> Tensor:
    """So large a constant that float32 rounds most of the differences away."""
    return system.honest(images) + 1e6


def vanishing_logits(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images) * 1e-30 * 1e-30


def noise_at_test_time(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images + 0.1 * torch.randn_like(images))


def random_crop(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images.roll((int(torch.randint(3, ())), int(torch.randint(3, ()))), dims=(2, 3)))


def noise_by_call(system: Tricky, images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(system.calls)
    return system.honest(images + 0.1 * torch.randn(images.shape, generator=generator).to(images))


def every_fifth_call(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images).roll(int(system.calls % 5 == 0), dims=1)


def batch_statistics(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images - images.mean(dim=0) + 0.5)


def blind_with_gradients(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if torch.is_grad_enabled() else logits


def blind_for_attacked_weights(system: Tricky, images: Tensor) -> Tensor:
    """An attack wants no gradients of weights: that gives it away."""
    logits: Tensor = system.honest(images)
    return logits if all(weight.requires_grad for weight in system.honest.parameters()) else logits.roll(1, dims=1)


def blind_copy(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if system.is_copy else logits


def flat_copy(system: Tricky, images: Tensor) -> Tensor:
    """The copy says the same, and has the gradient of something else."""
    return detached_straight_through(system, images) if system.is_copy else system.honest(images)


def flat_in_large_batches(system: Tricky, images: Tensor) -> Tensor:
    return detached_straight_through(system, images) if len(images) > 4 else system.honest(images)


def known_images(system: Tricky, images: Tensor) -> Tensor:
    """Clean images are known by their hash; of anything else the answer is no better than a guess."""
    known = _hashes()
    hits = torch.tensor([hashlib.sha256(one.float().contiguous().numpy().tobytes()).digest() in known for one in images.detach()])
    return torch.where(hits[:, None], system.honest(images), system.honest(images).roll(1, dims=1))


def detector(system: Tricky, images: Tensor) -> Tensor:
    """What has more fine structure than a clean image is answered with the first class."""
    constant = torch.zeros(len(images), CLASSES, dtype=images.dtype)
    constant[:, 0] = 5
    clean = _fine(honest_batch().images).to(images.dtype)
    known = (_fine(images.detach())[:, None] - clean[None]).abs().amin(dim=1) < 1e-6
    return torch.where(known[:, None], system.honest(images), constant)


def compression(system: Tricky, images: Tensor) -> Tensor:
    """Blocks of 4 x 4, their cosine coefficients rounded, as JPEG does."""
    order = torch.arange(4, dtype=images.dtype)
    basis = torch.cos(torch.pi * (order[None] + 0.5) * order[:, None] / 4) * (2 / 4) ** 0.5
    basis[0] /= 2**0.5
    blocks = images.unfold(2, 4, 4).unfold(3, 4, 4)
    rounded = ((basis @ blocks @ basis.T) * 10).round() / 10
    back = basis.T @ rounded @ basis
    return system.honest(back.permute(0, 1, 2, 4, 3, 5).reshape(images.shape))


def median_filter(system: Tricky, images: Tensor) -> Tensor:
    padded = functional.pad(images.detach(), (1, 1, 1, 1), mode="replicate")
    return system.honest(padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(dim=4).values)


def checkerboard(system: Tricky, images: Tensor) -> Tensor:
    """Half of the pixels are seen and pass no gradient."""
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)[None]) % 2 == 0
    return system.honest(torch.where(board, images, images.detach()))


def other_in_float64(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if images.dtype == torch.float64 else logits


def other_by_threads(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if torch.get_num_threads() > 1 else logits


def other_by_layout(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits if images.is_contiguous() else logits.roll(1, dims=1)


def other_in_training_mode_once(system: Tricky, images: Tensor) -> Tensor:
    """Whoever has seen train() is another system ever after."""
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if getattr(system, "was_trained", False) else logits


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.change(gradients[0]), None


def nan_gradients(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: slope * torch.nan))


def scaled_gradients(system: Tricky, images: Tensor, factor: float) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: factor * slope))


def flipped_gradients(system: Tricky, images: Tensor) -> Tensor:
    return scaled_gradients(system, images, -1.0)


def clipped_gradients(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: slope.clamp(-1e-3, 1e-3)))


def noisy_gradients(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: slope + slope.abs().mean() * 5 * torch.randn_like(slope)))


def watching_the_stack(system: Tricky, images: Tensor) -> Tensor:
    """Another function where a search asks."""
    logits: Tensor = system.honest(images)
    asked_by = {frame.name for frame in traceback.extract_stack()}
    return logits.roll(1, dims=1) if asked_by & {"pgd_in", "apgd", "streamed_pgd"} else logits


def random_choice(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images) if torch.rand(()) < 0.5 else system.honest(images.flip(3))


def winners_take_all(system: Tricky, images: Tensor) -> Tensor:
    """Of each layer's values the largest fifth stay (Xiao, Zhong and Zheng 2020): gradients that hold at a point alone."""
    body, head = system.honest[0], system.honest[1]
    values = images
    for layer in body:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            flat = values.flatten(1)
            least = flat.topk(flat.shape[1] // 20, dim=1).values[:, -1:]
            values = (flat * (flat >= least)).view(values.shape)
    return head(values)


def ripples(system: Tricky, images: Tensor) -> Tensor:
    """Steep waves on the logits that are not large: the gradient is true, and leads from one wave to the next."""
    waves = torch.sin(3e3 * images.mean(dim=(2, 3)) @ torch.eye(3, CLASSES, dtype=images.dtype))
    return system.honest(images) + waves / 2


def nearest_known_image(_system: Tricky, images: Tensor) -> Tensor:
    """The label of the nearest image of the test set, which the system has read."""
    batch = honest_batch()
    distances = torch.cdist(images.flatten(1), batch.images.flatten(1).to(images.dtype))
    return functional.one_hot(batch.labels[distances.argmin(dim=1)], CLASSES).to(images.dtype)


def _hashes() -> set[bytes]:
    return {hashlib.sha256(one.contiguous().numpy().tobytes()).digest() for one in honest_batch().images}


def _fine(images: Tensor) -> Tensor:
    """How much neighboring pixels differ."""
    return (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))


# With a mask.


class NoSurrogate(TwoStage):
    """A hard gate that lets no gradient through."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (mask_logits > 0).to(mask_logits.dtype)


class HotGate(TwoStage):
    """A soft gate that is nearly hard."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (1e3 * mask_logits).sigmoid()


class WarmGate(TwoStage):
    """The same, of which few values are exactly 0 or 1."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (mask_logits * 300).double().sigmoid().to(mask_logits.dtype)


class FrozenAsLearned(TwoStage):
    """The mask of the clean image, passed off as that of the image under attack."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        if context is None or context.frozen_masks is None:
            return super().masks(images, context)
        return context.frozen_masks

    def freeze(self, images: Tensor, context: MaskContext | None = None) -> MaskContext:
        return (context or MaskContext())._replace(frozen_masks=self.gate(self.mask_logits(images)).detach())


class HalfFrozen(FrozenAsLearned):
    """The mean of that and of the image's own."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return (super().masks(images, context) + self.gate(self.mask_logits(images))) / 2


class OtherMaskThanShown(TwoStage):
    """Classifies the whole image, and shows a mask."""

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        logits: Tensor = self.classifier(images)
        return logits


class LabelInMask(TwoStage):
    """The oracle's mask names the class: here by the image's seed, which stands for a value hidden in the mask."""

    strength = 50.0

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.sample_seeds is not None
        named = functional.one_hot(_labels_by_seed()[context.sample_seeds], CLASSES).to(images.dtype)
        return super().classify(images, masks, context) + self.strength * named


class LabelWhispered(LabelInMask):
    strength = 8.0


@dataclass
class _Table:
    labels: Tensor | None = None


_TABLE = _Table()


def _labels_by_seed() -> Tensor:
    if _TABLE.labels is None:
        _TABLE.labels = honest_batch(MaskSource.ORACLE).labels
    return _TABLE.labels
