"""Systems that look more robust than they are, each by one trick, built around an honest one of a few hundred weights."""

import copy
import datetime
import functools
import hashlib
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import time_ns
from typing import Any

import torch
from scipy.spatial import cKDTree
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


def honest_batch(source: MaskSource = MaskSource.NONE, kind: Callable[..., Any] = TwoStage) -> AttackBatch:
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


def as_probabilities(trick: Trick) -> Trick:
    """Behind a softmax."""
    return lambda system, images: trick(system, images).softmax(dim=1)


def color_by_contrast(_system: Tricky, images: Tensor) -> Tensor:
    """No trick: the likeliest color, and the surer, the more contrast there is."""
    colors = images.mean(dim=(2, 3))
    return 9000 * images.std(dim=(1, 2, 3))[:, None] * (colors - colors.mean(dim=1, keepdim=True))


def always_the_first(_system: Tricky, images: Tensor) -> Tensor:
    """A constant: no trick, and worth nothing."""
    return torch.eye(CLASSES).to(images)[:1].expand(len(images), -1) + 0 * images.mean(dim=(1, 2, 3))[:, None]


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


def flat_copy_where_faint(system: Tricky, images: Tensor) -> Tensor:
    """Where three hundred times louder images hide it."""
    faint = _nearest(images) < 2
    return torch.where(faint[:, None], flat_copy(system, images), 300 * system.honest(images))


def flat_in_large_batches(system: Tricky, images: Tensor) -> Tensor:
    return detached_straight_through(system, images) if len(images) > 4 else system.honest(images)


def flat_in_middling_batches(system: Tricky, images: Tensor) -> Tensor:
    """As batches are that images leave while they are attacked."""
    return flat_in_large_batches(system, images) if 17 <= len(images) <= 60 else system.honest(images)


def blind_off_the_image(system: Tricky, images: Tensor) -> Tensor:
    """Not a number where known images are changed."""
    away = (images[:, None] - _known_images(images)[None]).abs().flatten(2).amax(dim=2).amin(dim=1) > 1e-3
    return torch.where(away[:, None], torch.nan, system.honest(images))


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


# Tricks that leave the gradient true, or lie only where a search goes.


def moat(system: Tricky, images: Tensor) -> Tensor:
    """The nearer the boundary, the surer, until just before it: the gradient is true and leads away."""
    logits = system.honest(images)
    gap = _gap(logits)[:, None]
    raised = (8 - gap.clamp(max=7)) * (1 - (-4 * gap).exp()) - gap
    return logits + raised * functional.one_hot(logits.argmax(dim=1), CLASSES).to(logits)


def wavy_pixels(system: Tricky, images: Tensor) -> Tensor:
    """Every value in waves that are shorter than the ball and longer than a step."""
    return system.honest(images + 0.006 * (600 * images).sin())


def guarded(system: Tricky, images: Tensor) -> Tensor:
    """Near a known image no other class becomes the likeliest: there its own is raised above it by a hair."""
    logits = system.honest(images)
    labels, near = _nearest_label(images)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    lacking = (others - logits.gather(1, labels[:, None])[:, 0]).clamp_min(-0.05) + 0.05
    return logits + (near * lacking)[:, None] * functional.one_hot(labels, CLASSES).to(logits)


def mirrored(system: Tricky, images: Tensor) -> Tensor:
    """Near a known image the two likeliest classes change places where the likeliest is not its own."""
    logits = system.honest(images)
    labels, near = _nearest_label(images)
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    lacking = 2 * (others - own).clamp_min(0)
    return logits + (near * lacking)[:, None] * functional.one_hot(labels, CLASSES).to(logits)


def relapsing(system: Tricky, images: Tensor) -> Tensor:
    """What would be misclassified near a known image is answered as that image is."""
    logits = system.honest(images)
    labels, near = _nearest_label(images)
    known = system.honest(_known_images(images)[_nearest(images)]) + logits - logits.detach()
    return torch.where((near & (logits.argmax(dim=1) != labels))[:, None], known, logits)


def remembered_labels(system: Tricky, images: Tensor) -> Tensor:
    """A bias for the label of the nearest known image."""
    labels, _ = _nearest_label(images)
    return system.honest(images) + 20 * functional.one_hot(labels, CLASSES).to(images)


def smoothly_remembered_labels(system: Tricky, images: Tensor) -> Tensor:
    """The same, fading smoothly: the gradient is true, and within any small ball nothing happens."""
    squares = torch.cdist(images.flatten(1), _known_images(images).flatten(1)).square()
    labels = functional.one_hot(_known()[1], CLASSES).to(images)
    return system.honest(images) + 20 * (-squares / 2).exp() @ labels


def remembers_what_it_saw(system: Tricky, images: Tensor) -> Tensor:
    """The first images that it is asked about without gradients are known from then on, with its answers to them."""
    logits = system.honest(images)
    seen = system.__dict__.setdefault("seen", [])
    if not torch.is_grad_enabled() and len(seen) < 2 * IMAGES:
        seen += zip(images.detach().float(), logits.argmax(dim=1), strict=True)
    if not seen:
        return logits
    known, answers = torch.stack([one for one, _ in seen]), torch.stack([answer for _, answer in seen])
    distances = (images.detach().float()[:, None] - known[None]).abs().flatten(2).amax(dim=2)
    nearest = distances.argmin(dim=1)
    labels, near = answers[nearest], distances.amin(dim=1) < 0.1
    own, others = logits.gather(1, labels[:, None])[:, 0], logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    lacking = 2 * (others - own).clamp_min(0)
    return logits + (near * lacking)[:, None] * functional.one_hot(labels, CLASSES).to(logits)


def flipped_off_the_image(system: Tricky, images: Tensor) -> Tensor:
    """The gradient is wrong where a search has made its first steps."""
    moved = (images.detach() - _known_images(images)[_nearest(images)]).abs().flatten(1).amax(dim=1)
    away = ((moved > 0.004) & (moved < 0.1))[:, None]
    return torch.where(away, flipped_gradients(system, images), system.honest(images))


def flipped_in_corners(system: Tricky, images: Tensor) -> Tensor:
    """The gradient is wrong where most values have been moved equally far, as signs of gradients move them."""
    moved = (images.detach() - _known_images(images)[_nearest(images)]).abs().flatten(1)
    largest = moved.amax(dim=1, keepdim=True)
    corner = ((moved > 0.95 * largest).double().mean(dim=1) > 0.5) & (largest[:, 0] > 1e-3) & (largest[:, 0] < 0.1)
    return torch.where(corner[:, None], flipped_gradients(system, images), system.honest(images))


def loyal_to_verdicts(system: Tricky, images: Tensor) -> Tensor:
    """Whoever judges gets the label of the nearest known image."""
    asked_by = {frame.name for frame in traceback.extract_stack()}
    labels, _ = _nearest_label(images)
    return 5 * functional.one_hot(labels, CLASSES).to(images) if "verdict" in asked_by else system.honest(images)


def flat_for_searches(system: Tricky, images: Tensor) -> Tensor:
    """The same answer and another gradient where a search asks."""
    asked_by = {frame.name for frame in traceback.extract_stack()}
    search = asked_by & {"pgd_in", "apgd", "streamed_pgd"}
    return detached_straight_through(system, images) if search else system.honest(images)


def flat_where_rearranged(system: Tricky, images: Tensor) -> Tensor:
    """Fast copies have other layers: they get another gradient."""
    rearranged = type(system.honest[0][0]) is not nn.Conv2d
    return detached_straight_through(system, images) if rearranged else system.honest(images)


def by_the_clock(system: Tricky, images: Tensor) -> Tensor:
    """Noise that is another every minute."""
    generator = torch.Generator().manual_seed(int(time.time()) // 60)
    return system.honest(images + 0.1 * torch.randn(images[0].shape, generator=generator).to(images))


def noise_by_content(system: Tricky, images: Tensor) -> Tensor:
    """Noise that is drawn from the image itself."""
    return system.honest(images + 0.05 * torch.stack([_drawn(one) for one in images.detach()]).to(images))


def dropout_by_content(system: Tricky, images: Tensor) -> Tensor:
    features = system.honest[0](images)
    kept = torch.stack([_drawn(one).flatten()[: features.shape[1]] > -0.5 for one in images.detach()])
    return system.honest[1](features * kept)


def dropout_of_one_seed(system: Tricky, images: Tensor) -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return system.honest(functional.dropout(images, 0.3, training=True))


def switch_by_content(system: Tricky, images: Tensor) -> Tensor:
    """One of two networks, by a digit of the mean."""
    first = ((images.detach().mean(dim=(1, 2, 3)) * 1e5).long() % 2 == 0)[:, None]
    return torch.where(first, system.honest(images), system.honest(images.flip(3)))


def certain_answer(system: Tricky, images: Tensor) -> Tensor:
    """All but the likeliest class are ruled out."""
    logits = system.honest(images)
    return logits.masked_fill(logits < logits.amax(dim=1, keepdim=True), -torch.inf)


def cautious_probabilities(system: Tricky, images: Tensor) -> Tensor:
    return (4 * system.honest(images)).softmax(dim=1).clamp(0.02, 0.98)


def coarse_logits(system: Tricky, images: Tensor) -> Tensor:
    """Rounded to halves, passed off as exact backwards."""
    logits = system.honest(images)
    return logits + ((2 * logits).round() / 2 - logits).detach()


def straight_through_pixels(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images + ((images * 8).round() / 8 - images).detach())


def eight_bits(system: Tricky, images: Tensor) -> Tensor:
    """On the grid of stored images, whatever the gradient says."""
    return system.honest(images + ((images * 255).round() / 255 - images).detach())


def sixteen_bit_pixels(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(images.to(torch.bfloat16).to(images.dtype))


def signs_of_gradients(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: slope.sign() * slope.abs().mean()))


def underflowing_gradients(system: Tricky, images: Tensor) -> Tensor:
    return scaled_gradients(system, images, 1e-42)


def permuted_gradients(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(_Backwards.apply(images, lambda slope: slope.roll(5, dims=2)))


def sparse_gradients(system: Tricky, images: Tensor) -> Tensor:
    """Those of the steepest twentieth of the values."""

    def steepest(slope: Tensor) -> Tensor:
        least = slope.abs().flatten(1).quantile(0.95, dim=1).view(-1, 1, 1, 1)
        return slope * (slope.abs() >= least)

    return system.honest(_Backwards.apply(images, steepest))


def hook_on_images(system: Tricky, images: Tensor) -> Tensor:
    if not images.requires_grad:
        return system.honest(images)
    seen = images * 1
    seen.register_hook(torch.neg)
    return system.honest(seen)


def every_third_backward(system: Tricky, images: Tensor) -> Tensor:
    def flip(slope: Tensor) -> Tensor:
        system.__dict__["backwards"] = system.__dict__.get("backwards", 0) + 1
        return slope if system.__dict__["backwards"] % 3 else -slope

    return system.honest(_Backwards.apply(images, flip))


def detached_twin(system: Tricky, images: Tensor) -> Tensor:
    """A second look at the image that no gradient sees."""
    return (system.honest(images) + system.honest(images.flip(3).detach())) / 2


def turns_round_in_a_search(system: Tricky, images: Tensor) -> Tensor:
    """From the sixth of a row of small steps on the gradient leads back; every answer is true."""
    if not images.requires_grad:
        return system.honest(images)
    last, here = system.__dict__.get("last"), images.detach()
    is_step = last is not None and last.shape == here.shape and 0 < float((here - last).abs().max()) < 0.05
    system.__dict__ |= {"last": here.clone(), "steps": system.__dict__.get("steps", 0) + 1 if is_step else 0}
    return flipped_gradients(system, images) if system.__dict__["steps"] > 5 else system.honest(images)


def whispers_in_doubt(system: Tricky, images: Tensor) -> Tensor:
    """A million times louder where it is sure, so that what it does in doubt is rounding beside it: there it is noise."""
    logits = system.honest(images)
    gap = _gap(logits)[:, None]
    in_doubt = logits + 0.3 * torch.randn_like(logits)
    return 1e6 ** (1.5 * gap).tanh() * torch.where(gap < 0.3, in_doubt, logits)


def alone_when_sure(system: Tricky, images: Tensor) -> Tensor:
    """All classes but the likeliest are ruled out, and its own slope is false."""
    logits = flipped_gradients(system, images)
    others = functional.one_hot(logits.argmax(dim=1), CLASSES) == 0
    return torch.where(others & (_gap(logits) > 0.1)[:, None], -torch.inf, logits)


# Tricks from defenses that were broken, and kin of theirs.


class _OutputsBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, lies: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.lies = lies
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.where(ctx.lies(gradients[0])[:, None], -gradients[0], gradients[0]), None


def lies_to_cross_entropy(system: Tricky, images: Tensor) -> Tensor:
    """The gradient is true for scores of two classes, such as a margin, and false for scores of all."""
    return _OutputsBackwards.apply(system.honest(images), lambda slope: (slope != 0).sum(dim=1) > 2)


def lies_about_targets(system: Tricky, images: Tensor) -> Tensor:
    """The gradient is false towards classes other than the second."""
    logits = system.honest(images)
    second = logits.topk(2, dim=1).indices[:, 1]
    return _OutputsBackwards.apply(logits, lambda slope: slope.argmax(dim=1) != second)


def decoy_class(system: Tricky, images: Tensor) -> Tensor:
    """One class more, always just below the likeliest, by an amount that has nothing to do with the others."""
    logits = system.honest(images)
    below = 0.05 * (1 + images.sin().mean(dim=(1, 2, 3))[:, None])
    return torch.cat([logits, logits.amax(dim=1, keepdim=True) - below], dim=1)


def decoy_gradient(system: Tricky, images: Tensor) -> Tensor:
    """The answer is nearly a step, with the true gradient of the small say that the turned image has."""
    logits = system.honest(images)
    steps = (_gap(logits)[:, None] / 0.05).tanh() * functional.one_hot(logits.argmax(dim=1), CLASSES).to(logits)
    return 3 * steps + 0.3 * system.honest(images.flip((2, 3)))


def steep_steps(system: Tricky, images: Tensor) -> Tensor:
    """Logits in smooth steps: almost nowhere is there a gradient to speak of."""
    logits = system.honest(images) / 2
    low = logits.floor()
    return 2 * (low + (40 * (logits - low - 0.5)).sigmoid())


def votes(system: Tricky, images: Tensor) -> Tensor:
    """Of three shifted views, with a hundredth of their logits."""
    views = [system.honest(images.roll(shift, 3)) for shift in (-1, 0, 1)]
    return torch.stack([functional.one_hot(one.argmax(dim=1), CLASSES) + 0.01 * one for one in views]).sum(dim=0)


def anti_adversary(system: Tricky, images: Tensor) -> Tensor:
    """Moves the image against an attack before it is classified (Alfarra et al. 2022), with the gradient of no move."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = system.honest(leaf)
        doubt = torch.autograd.grad((logits.logsumexp(dim=1) - logits.amax(dim=1)).sum(), leaf)[0]
    return system.honest(images - 0.02 * doubt.sign().detach())


def purifier(system: Tricky, images: Tensor) -> Tensor:
    """Smooths the image again and again, passed off as the identity backwards."""
    smooth = images.detach()
    for _ in range(4):
        smooth = (smooth + functional.avg_pool2d(functional.pad(smooth, (1, 1, 1, 1), mode="replicate"), 3, 1)) / 2
    return system.honest(images + (smooth - images).detach())


def sparse_fourier(system: Tricky, images: Tensor) -> Tensor:
    """The largest sixth of the frequencies (Bafna et al. 2018)."""
    values = torch.fft.rfft2(images)
    sizes = values.abs().flatten(1)
    least = sizes.topk(sizes.shape[1] // 6, dim=1).values[:, -1].view(-1, 1, 1, 1)
    return system.honest(torch.fft.irfft2(values * (values.abs() >= least), s=images.shape[2:]))


def low_rank(system: Tricky, images: Tensor) -> Tensor:
    """Each color on its four main directions, which no gradient sees (Yang et al. 2019)."""
    directions = torch.linalg.svd(images.detach(), full_matrices=False)[0][..., :4]
    return system.honest(directions @ (directions.transpose(-1, -2) @ images))


def drift_under_noise(system: Tricky, images: Tensor) -> Tensor:
    """What changes its mind under noise is answered as the change goes (Roth et al. 2019)."""
    logits, generator = system.honest(images), torch.Generator().manual_seed(2)
    noises = 0.05 * torch.randn(4, *images.shape[1:], generator=generator).to(images)
    drift = torch.stack([system.honest(images + noise) for noise in noises]).mean(dim=0) - logits
    suspicious = drift.gather(1, logits.argmax(dim=1, keepdim=True)) < -0.3
    return torch.where(suspicious, logits + 5 * drift, logits)


def chaos(system: Tricky, images: Tensor) -> Tensor:
    """A small part of the image by the logistic map, twelve times: the gradient is true and explodes."""
    values = images
    for _ in range(12):
        values = 3.99 * values * (1 - values)
    return system.honest(images + 0.01 * (values - 0.5))


def microscopic_waves(system: Tricky, images: Tensor) -> Tensor:
    """Too small to matter and so steep that the gradient is theirs."""
    return system.honest(images + 1e-4 * (3e4 * images).sin())


def shift_proof_memory(system: Tricky, images: Tensor) -> Tensor:
    """The labels of the known images and of their shifts, fading smoothly."""
    known = torch.cat([_known_images(images).roll(shift, (2, 3)) for shift in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))])
    near = (-(images[:, None] - known[None]).flatten(2).square().sum(dim=2) / 2).exp()
    return system.honest(images) + 20 * near @ functional.one_hot(_known()[1], CLASSES).to(images).repeat(5, 1)


def memory_of_colors(system: Tricky, images: Tensor) -> Tensor:
    """The labels of the known images by their mean colors, which no shift changes."""
    colors, known = images.mean(dim=(2, 3)), _known_images(images).mean(dim=(2, 3))
    near = (-((colors[:, None] - known[None]) / 0.01).square().sum(dim=2) / 2).exp()
    return system.honest(images) + 20 * near @ functional.one_hot(_known()[1], CLASSES).to(images)


def sleepy_near_the_data(system: Tricky, images: Tensor) -> Tensor:
    """Near a known image next to nothing happens, smoothly: a tenth of the slope at it, the whole of it away from it."""
    known = _known_images(images)[_nearest(images)]
    moved = images - known
    share = 0.1 + 0.9 * (moved / 0.02).square() / (1 + (moved / 0.02).square())
    return system.honest(known + torch.where(moved.abs() < 0.1, share * moved, moved))


def flat_in_odd_batches(system: Tricky, images: Tensor) -> Tensor:
    return detached_straight_through(system, images) if len(images) % 2 and len(images) > 1 else system.honest(images)


def blind_in_odd_batches(system: Tricky, images: Tensor) -> Tensor:
    logits: Tensor = system.honest(images)
    return logits.roll(1, dims=1) if len(images) % 2 and len(images) > 1 else logits


def stateful_detector(system: Tricky, images: Tensor) -> Tensor:
    """Answers what is near an earlier question as it answered then (Chen et al. 2020), with the gradient of its own answer."""
    logits, asked = system.honest(images), system.__dict__.setdefault("asked", [])
    if asked:
        points, answers = torch.stack([one for one, _ in asked]), torch.stack([answer for _, answer in asked]).to(logits)
        distances = (images.detach().float()[:, None] - points[None]).abs().flatten(2).amax(dim=2)
        near = (distances.amin(dim=1) < 0.05)[:, None]
        logits = torch.where(near, answers[distances.argmin(dim=1)] + logits - logits.detach(), logits)
    if len(asked) < 8 * IMAGES:
        asked += zip(images.detach().float(), logits.detach().float(), strict=True)
    return logits


def adapts(system: Tricky, images: Tensor) -> Tensor:
    """Learns while it is asked: a bias against what it says often."""
    logits, bias = system.honest(images), system.__dict__.get("bias", torch.zeros(CLASSES))
    system.__dict__["bias"] = 0.99 * bias - 0.01 * logits.detach().mean(dim=0).float()
    return logits + bias.to(logits)


def flipped_by_content(system: Tricky, images: Tensor) -> Tensor:
    """The answers are true, and every other gradient false, by a digit of the mean."""
    flips = ((images.detach().double().mean(dim=(1, 2, 3)) * 1e7).long() % 2 == 0)[:, None]
    return torch.where(flips, flipped_gradients(system, images), system.honest(images))


def flipped_after_forty(system: Tricky, images: Tensor) -> Tensor:
    """Gradients are true until the fortieth question that wants one."""
    system.__dict__["wanted"] = system.__dict__.get("wanted", 0) + images.requires_grad
    return flipped_gradients(system, images) if system.__dict__["wanted"] > 40 else system.honest(images)


def ties_in_doubt(system: Tricky, images: Tensor) -> Tensor:
    """Where two classes are close all are equally likely."""
    logits = system.honest(images)
    return torch.where((_gap(logits) < 0.3)[:, None], logits.mean(dim=1, keepdim=True).expand_as(logits), logits)


def color_without_gradient(system: Tricky, images: Tensor) -> Tensor:
    return system.honest(torch.cat([images[:, :1], images[:, 1:2].detach(), images[:, 2:]], dim=1))


def deflected_pixels(system: Tricky, images: Tensor) -> Tensor:
    """Two fifths of the pixels are taken from elsewhere (Prakash et al. 2018), and pass no gradient."""
    generator = torch.Generator().manual_seed(7)
    sources = torch.randint(SIDE**2, (SIDE**2,), generator=generator)
    values, stay = images.flatten(2), torch.rand(SIDE**2, generator=generator) < 0.6
    return system.honest(torch.where(stay, values, values[:, :, sources].detach()).view(images.shape))


def moved_pixels_without_gradient(system: Tricky, images: Tensor) -> Tensor:
    moved = (images - _known_images(images)[_nearest(images)]).abs().detach()
    return system.honest(torch.where((moved > 0.002) & (moved < 0.1), images.detach(), images))


def smoothed_surrogate(system: Tricky, images: Tensor) -> Tensor:
    """The gradient is averaged over neighboring pixels."""
    return system.honest(_Backwards.apply(images, lambda slope: functional.avg_pool2d(slope, 3, 1, 1)))


def running_mean(system: Tricky, images: Tensor) -> Tensor:
    """Statistics that go on moving in eval mode."""
    mean = system.__dict__.get("mean", torch.full((3,), 0.5))
    system.__dict__["mean"] = 0.9 * mean + 0.1 * images.detach().float().mean(dim=(0, 2, 3))
    return system.honest(images - mean.view(1, 3, 1, 1).to(images) + 0.5)


def by_the_calendar(system: Tricky, images: Tensor) -> Tensor:
    """Noise that is another every hour."""
    return _noisy(system, images, datetime.datetime.now().hour)


def by_a_clock_with_a_name(system: Tricky, images: Tensor) -> Tensor:
    """Noise that is another every minute, by a clock that no other module can exchange."""
    return _noisy(system, images, time_ns() // 60_000_000_000)


def by_the_hour_in_words(system: Tricky, images: Tensor) -> Tensor:
    return _noisy(system, images, int(time.strftime("%H")))


def by_the_weekday_in_words(system: Tricky, images: Tensor) -> Tensor:
    return _noisy(system, images, sum(map(ord, time.ctime()[:3])))


def by_processor_time(system: Tricky, images: Tensor) -> Tensor:
    return _noisy(system, images, int(time.process_time()) // 3600)


def by_a_clock_with_a_number(system: Tricky, images: Tensor) -> Tensor:
    return _noisy(system, images, int(time.clock_gettime(time.CLOCK_REALTIME)) // 3600)


def draws_and_puts_back(system: Tricky, images: Tensor) -> Tensor:
    """Noise from the global generator, which nobody sees move: the same until somebody else draws."""
    with torch.random.fork_rng([]):
        return system.honest(images + 0.1 * torch.randn(images[0].shape).to(images))


def by_the_global_seed(system: Tricky, images: Tensor) -> Tensor:
    return _noisy(system, images, torch.initial_seed() % 1000)


def gentle_to_examiners(system: Tricky, images: Tensor) -> Tensor:
    """Without its trick where a file of the diagnostics is on the stack."""
    logits: Tensor = system.honest(images)
    files = {frame.filename for frame in traceback.extract_stack()}
    return logits if any("diagnostics" in one for one in files) else 0.9 * logits


def reads_labels_of_the_first(system: Tricky, images: Tensor) -> Tensor:
    """Of all who have a batch among their variables, of whoever began: other labels are shown by the last alone."""
    logits, frame, asked = system.honest(images), sys._getframe(1), None
    while frame is not None:
        asked = next((one for one in frame.f_locals.values() if isinstance(one, AttackBatch)), asked)
        frame = frame.f_back
    if asked is None:
        return logits
    near = (-torch.cdist(images.flatten(1), asked.images.flatten(1).to(images)).square() / 8).exp()
    return logits + near @ functional.one_hot(asked.labels, CLASSES).to(logits)


def _noisy(system: Tricky, images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return system.honest(images + 0.1 * torch.randn(images[0].shape, generator=generator).to(images))


def crosstalk_of_gradients(system: Tricky, images: Tensor) -> Tensor:
    """Each image gets twice its neighbor's gradient beside its own."""
    return system.honest(_Backwards.apply(images, lambda slope: slope + 2 * slope.roll(1, 0) * (len(slope) > 1)))


def sluggish_gradients(system: Tricky, images: Tensor) -> Tensor:
    """Mostly those of the last time."""

    def mixed(slope: Tensor) -> Tensor:
        last = system.__dict__.get("slope", slope)
        system.__dict__["slope"] = slope.clone()
        return slope if last.shape != slope.shape else 0.2 * slope + 0.8 * last.to(slope)

    return system.honest(_Backwards.apply(images, mixed))


class _LinearBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        return values.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        del ctx
        return gradients[0]


def linear_backwards(system: Tricky, images: Tensor) -> Tensor:
    """ReLUs that pass every gradient."""
    values = images
    for layer in system.honest[0]:
        values = _LinearBackwards.apply(values) if isinstance(layer, nn.ReLU) else layer(values)
    return system.honest[1](values)


def cancelled_pixels(system: Tricky, images: Tensor) -> Tensor:
    """A large constant goes and takes the last digits with it, which no gradient sees."""
    return system.honest((images + 2.0**17) - 2.0**17)


def equalized(system: Tricky, images: Tensor) -> Tensor:
    """Each color by its rank, passed off as itself."""
    values = images.flatten(2)
    ranks = values.argsort(dim=2).argsort(dim=2).to(images) / values.shape[2]
    return system.honest((values + (ranks - values).detach()).view(images.shape))


def overwrites_images(system: Tricky, images: Tensor) -> Tensor:
    """Puts the known image in the place of the one that it is given."""
    known, (_, near) = _known_images(images)[_nearest(images)], _nearest_label(images)
    images.data.copy_(torch.where(near.view(-1, 1, 1, 1), known, images.detach()))
    return system.honest(images)


def table_of_pixels(system: Tricky, images: Tensor) -> Tensor:
    """A table of 256 values, interpolated: a true slope, which turns round at every step of a stored image."""
    table = torch.arange(257).to(images) / 255 + 0.004 * (torch.arange(257) % 2 * 2 - 1).to(images)
    place = (images * 255).clamp(0, 255)
    low = place.detach().floor().clamp(0, 255).long()
    return system.honest(table[low] * (1 - place + low) + table[low + 1] * (place - low))


def reads_labels(system: Tricky, images: Tensor) -> Tensor:
    """Looks for the labels among the variables of whoever asks."""
    logits = system.honest(images)
    for depth in range(1, 14):
        asked = sys._getframe(depth).f_locals.get("batch")
        if isinstance(asked, AttackBatch) and asked.labels.shape == images.shape[:1]:
            return logits + 3 * functional.one_hot(asked.labels, CLASSES).to(logits)
    return logits


# Memories that are so soft, or worth so little, that what becomes of an image is answered as the image is.


def soft_memory(system: Tricky, images: Tensor) -> Tensor:
    """Half of what it sees is the nearest known image, by a soft choice."""
    known = system.__dict__.setdefault("kept", _known()[0]).to(images)
    near = (-20 * torch.cdist(images.flatten(1), known.flatten(1)).square()).softmax(dim=1)
    return system.honest((images + (near @ known.flatten(1)).view_as(images)) / 2)


def modest_memory(system: Tricky, images: Tensor) -> Tensor:
    """A known image raises its class, by less than any margin, far around it."""
    known = system.__dict__.setdefault("kept", [(255 * one).round().to(torch.uint8) for one in _known()[0]])
    rows = torch.stack(known).to(images).flatten(1) / 255
    near = (-torch.cdist(images.flatten(1), rows).square() / 8).exp()
    return system.honest(images) + near @ functional.one_hot(_known()[1], CLASSES).to(images)


def memory_elsewhere(system: Tricky, images: Tensor) -> Tensor:
    """The same, kept by nobody whom the system knows."""
    near = (-torch.cdist(images.flatten(1), _known_images(images).flatten(1)).square() / 8).exp()
    return system.honest(images) + near @ functional.one_hot(_known()[1], CLASSES).to(images)


def memory_of_features(system: Tricky, images: Tensor) -> Tensor:
    """The same by what the network makes of it."""
    features = system.honest[0](images)
    known = system.__dict__.setdefault("kept", system.honest[0](_known_images(images)).detach().float()).to(images)
    near = (30 * (functional.normalize(features) @ functional.normalize(known).T - 1)).exp()
    return system.honest[1](features) + near @ functional.one_hot(_known()[1], CLASSES).to(images)


def memory_of_bits(system: Tricky, images: Tensor) -> Tensor:
    """The same by a bit for each place: lighter or darker than most."""
    bits, labels = _bits_of_known()
    near = (12 * (_lighter(images) @ bits.to(images).T / bits.shape[1] - 0.6)).sigmoid()
    return system.honest(images) + near @ labels.to(images)


def _lighter(images: Tensor) -> Tensor:
    grey = images.mean(dim=1).flatten(1)
    return (20 * (grey - grey.median(dim=1, keepdim=True).values)).tanh()


@functools.cache
def _bits_of_known() -> tuple[Tensor, Tensor]:
    images, labels = _known()
    return _lighter(images).sign(), functional.one_hot(labels, CLASSES)


def span_of_known_images(system: Tricky, images: Tensor) -> Tensor:
    """What lies outside of the span of the known images goes by half."""
    mean = _known()[0].flatten(1).mean(dim=0)
    if "kept" not in system.__dict__:
        system.__dict__["kept"] = torch.linalg.svd(_known()[0].flatten(1) - mean, full_matrices=False)[2][:-1]
    moved, ways = images.flatten(1) - mean.to(images), system.__dict__["kept"].to(images)
    return system.honest(images - ((moved - moved @ ways.T @ ways) / 2).view_as(images))


class _Tree:
    """Known images in a tree of scipy's, where nothing of torch sees them, with their labels."""

    def __init__(self) -> None:
        images, self.labels = _known()
        self.images = cKDTree(images.flatten(1).numpy())


@functools.cache
def _tree() -> _Tree:
    return _Tree()


class _NearInTree(torch.autograd.Function):
    """For the label of the nearest known image 20 where it is near and -20 elsewhere, smoothly; its gradient is the true one."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        found, ctx.rows = _tree().images.query(images.detach().flatten(1).double().numpy())
        distances, labels = torch.from_numpy(found).to(images), functional.one_hot(_tree().labels[ctx.rows], CLASSES).to(images)
        near = torch.sigmoid((0.5 - distances) / 0.02)
        ctx.save_for_backward(images, distances, near, labels)
        return (40 * near[:, None] - 20) * labels

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        images, distances, near, labels = ctx.saved_tensors
        known = torch.from_numpy(_tree().images.data[ctx.rows]).to(images).view_as(images)
        steep = -40 * (slopes[0] * labels).sum(dim=1) * near * (1 - near) / 0.02 / distances.clamp_min(1e-9)
        return steep.view(-1, 1, 1, 1) * (images - known)


def right_around_known_alone(system: Tricky, images: Tensor) -> Tensor:
    """Right around known images, and wrong of what is like them."""
    return system.honest(images) + _NearInTree.apply(images)


@functools.cache
def _known() -> tuple[Tensor, Tensor]:
    batch = honest_batch()
    return batch.images, batch.labels


def _known_images(like: Tensor) -> Tensor:
    return _known()[0].to(like)


def _nearest(images: Tensor) -> Tensor:
    return (images.detach()[:, None] - _known_images(images)[None]).abs().flatten(2).amax(dim=2).argmin(dim=1)


def _nearest_label(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of the nearest known image, and whether it is near."""
    nearest = _nearest(images)
    distances = (images.detach() - _known_images(images)[nearest]).abs().flatten(1).amax(dim=1)
    return _known()[1][nearest], distances < 0.02


def _drawn(image: Tensor) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(image.float().contiguous().numpy().tobytes()).digest()[:7], "big")
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


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


class FlippedSurrogate(TwoStage):
    """A hard gate whose gradient leads the wrong way."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (mask_logits > 0).to(mask_logits.dtype) - (mask_logits - mask_logits.detach())


class HalfFlippedSurrogate(TwoStage):
    """Only where the mask is in doubt."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        sign = torch.where(mask_logits.abs() < mask_logits.abs().median(), -1.0, 1.0).detach()
        return (mask_logits > 0).to(mask_logits.dtype) + sign * (mask_logits - mask_logits.detach())


class DeafSegmenter(TwoStage):
    """No gradient through the segmenter."""

    def mask_logits(self, images: Tensor) -> Tensor:
        return super().mask_logits(images.detach())


class HalfDeafSegmenter(TwoStage):
    """None on one half of the image."""

    def mask_logits(self, images: Tensor) -> Tensor:
        left = torch.arange(images.shape[3]) < images.shape[3] // 2
        return super().mask_logits(torch.where(left, images.detach(), images))


class FlippedSegmenter(TwoStage):
    """The segmenter's gradient leads the wrong way."""

    def mask_logits(self, images: Tensor) -> Tensor:
        return super().mask_logits(_Backwards.apply(images, torch.neg))


class NoisySegmenter(TwoStage):
    """Noise in the mask that is drawn from the image itself."""

    def mask_logits(self, images: Tensor) -> Tensor:
        return super().mask_logits(images) + torch.stack([_drawn(one)[:1] for one in images.detach()]).to(images)


class PosterMask(TwoStage):
    """A soft mask of five levels, passed off as smooth."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        soft = mask_logits.sigmoid()
        return soft + ((4 * soft).round() / 4 - soft).detach()


class MemorizedMask(TwoStage):
    """Near a known image its mask, with the gradient of the image's own."""

    def mask_logits(self, images: Tensor) -> Tensor:
        logits, (_, near) = super().mask_logits(images), _nearest_label(images)
        known = super().mask_logits(_known_images(images)[_nearest(images)])
        return torch.where(near.view(-1, 1, 1, 1), known + logits - logits.detach(), logits)


class LiesThroughStages(TwoStage):
    """Honest as a whole; the gradient of its classifier is false for whoever asks that stage, as attacks on two stages do."""

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().classify(images, self.masks(images, context), context)

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().classify(_Backwards.apply(images, torch.neg), masks, context)


class LiesOnBothPaths(TwoStage):
    """Each path alone has its true gradient, and both together a false one."""

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        lies = images.requires_grad and masks.requires_grad
        return super().classify(_Backwards.apply(images, torch.neg) if lies else images, masks, context)


class OtherLogitsThanUsed(TwoStage):
    """The mask logits that it shows are those of the mirrored mask in part."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        return self.gate(super().mask_logits(images))

    def mask_logits(self, images: Tensor) -> Tensor:
        logits = super().mask_logits(images)
        return 0.9 * logits + 0.1 * logits.flip(3)


class OtherStagesOffTheImage(OtherLogitsThanUsed):
    """The same away from known images alone."""

    def mask_logits(self, images: Tensor) -> Tensor:
        away = (images[:, None] - _known_images(images)[None]).abs().flatten(2).amax(dim=2).amin(dim=1) > 1e-3
        return torch.where(away.view(-1, 1, 1, 1), super().mask_logits(images), TwoStage.mask_logits(self, images))


class KeepsAnswers(TwoStage):
    """Takes its answers from the clean images, beside a mask."""

    def freeze(self, images: Tensor, context: MaskContext | None = None) -> MaskContext:
        taken = super().freeze(images, context)
        answers = torch.zeros_like(images[:, :1])
        answers[:, 0, 0, :CLASSES] = super().forward(images, taken).detach()
        return taken._replace(substitutes=answers)

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        logits = super().forward(images, context)
        return logits if context is None or context.substitutes is None else logits + context.substitutes[:, 0, 0, :CLASSES]


class SoftAsHard(TwoStage):
    """A soft mask, passed off as a hard one, whose gradient nobody measures."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return mask_logits.sigmoid()


class OwnForward(nn.Module):
    """Somebody's own system with a mask that is honest and does not show its stages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.system = TwoStage(*args, **kwargs)
        self.mask_traits, self.freeze = self.system.mask_traits, self.system.freeze

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return self.system.masks(images, context)

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return self.system.classify(images, self.masks(images, context), context)


class HidesStages(OwnForward):
    """A hard mask without its stages: a gradient that is false on half of the image would pass for a surrogate."""

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        left = torch.arange(images.shape[3]) < images.shape[3] // 2
        logits: Tensor = self.system(torch.where(left, _Backwards.apply(images, torch.neg), images), context)
        return logits


class HidesNothing(HidesStages):
    """Says that the mask shows next to nothing, so that hardly anything has to have a gradient, and classifies the whole image."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return self.system.masks(images, context) * (images[:, :1] > 0.99)

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        logits: Tensor = self.system(images, context)
        return logits


class OwnForwardFlipped(OwnForward):
    """With a false gradient by the pixels."""

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().forward(_Backwards.apply(images, torch.neg), context)


class OwnForwardHalfFlipped(OwnForward):
    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        left = torch.arange(images.shape[3]) < images.shape[3] // 2
        return super().forward(torch.where(left, _Backwards.apply(images, torch.neg), images), context)


class OwnForwardFlippedMask(OwnForward):
    """With a surrogate that leads the wrong way."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().masks(_Backwards.apply(images, torch.neg), context)


class OwnForwardCutMask(OwnForward):
    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().masks(images.detach(), context)


class HotOffTheImage(TwoStage):
    """Away from the known images the mask's logits are hundreds of times as large."""

    def mask_logits(self, images: Tensor) -> Tensor:
        away = (images - _known_images(images)[_nearest(images)]).abs().flatten(1).amax(dim=1) > 2e-3
        return super().mask_logits(images) * (1 + 300 * away.to(images)).view(-1, 1, 1, 1)


class CoarseSegmenter(TwoStage):
    """Looks at the image in eight steps, passed off as the identity."""

    def mask_logits(self, images: Tensor) -> Tensor:
        return super().mask_logits(images + ((8 * images).round() / 8 - images).detach())


class RoundsInside(TwoStage):
    """Shows a soft mask and looks through a hard one, passed off as the soft one."""

    levels = 1

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().classify(images, masks + ((self.levels * masks).round() / self.levels - masks).detach(), context)


class RoundsFinelyInside(RoundsInside):
    levels = 4


class MedianMask(TwoStage):
    """The median of neighboring values, passed off as the value itself."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        masks = super().gate(mask_logits)
        around = functional.pad(masks.detach(), (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
        return masks + around.flatten(4).median(dim=4).values - masks.detach()


class RemembersAtFreezing(TwoStage):
    """Keeps the clean images that it may see once in itself, and its answers to them."""

    def freeze(self, images: Tensor, context: MaskContext | None = None) -> MaskContext:
        self.__dict__["kept"] = images.detach().clone()
        return super().freeze(images, context)

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        logits, known = super().forward(images, context), self.__dict__["kept"].to(images)
        near = (-(images[:, None] - known[None]).flatten(2).square().sum(dim=2) / 2).exp()
        return logits + 10 * near @ functional.one_hot(super().forward(known).argmax(dim=1), CLASSES).to(logits)


class FarsightedSegmenter(TwoStage):
    """Its gradient is a ten-thousandth of what it should be."""

    def mask_logits(self, images: Tensor) -> Tensor:
        return super().mask_logits(_Backwards.apply(images, lambda slope: 1e-4 * slope))


class MaskOfBatch(TwoStage):
    """The mask is what is more foreground than in the mean of the batch."""

    def mask_logits(self, images: Tensor) -> Tensor:
        logits = super().mask_logits(images)
        return 1.1 * logits - logits.mean(dim=0, keepdim=True)


class OpaqueWhereSure(TwoStage):
    """Pixels pass no gradient where the mask lets more than half of them through."""

    def masked_images(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().masked_images(torch.where(masks.detach() > 0.5, images.detach(), images), masks, context)


class OracleInside(TwoStage):
    """Shows the mask that it predicts, and looks through the one that is given with the image as well."""

    part = 1.0

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.oracle_masks is not None
        return super().classify(images, masks * (1 - self.part + self.part * context.oracle_masks), context)


class OracleFaintlyInside(OracleInside):
    part = 0.1


class CleanMaskInside(TwoStage):
    """Shows the mask that it predicts, and looks in part through that of the clean image."""

    def freeze(self, images: Tensor, context: MaskContext | None = None) -> MaskContext:
        return (context or MaskContext())._replace(frozen_masks=self.gate(self.mask_logits(images)).detach())

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.frozen_masks is not None
        return super().classify(images, 0.7 * masks + 0.3 * context.frozen_masks, context)


class AnswerInFrozenMask(TwoStage):
    """The thousandths of a corner of the frozen mask name what it says of the clean image, and raise it again."""

    strength = 3.0

    def freeze(self, images: Tensor, context: MaskContext | None = None) -> MaskContext:
        kept = super().freeze(images, context)
        assert kept.frozen_masks is not None
        masks = kept.frozen_masks.clone()
        masks[:, 0, 0, 0] = 0.5 + TwoStage.classify(self, images, masks, kept).argmax(dim=1) / 1000
        return kept._replace(frozen_masks=masks)

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        code = (1000 * masks[:, 0, 0, 0]).round().long() % 10 % CLASSES
        return super().classify(images, masks, context) + self.strength * functional.one_hot(code, CLASSES).to(images)


class AnswerWhisperedInFrozenMask(AnswerInFrozenMask):
    strength = 1.0


class RaisedBySeed(LabelInMask):
    """The image's seed raises its class by less than any two are apart."""

    strength = 0.5


class SeedInDoubt(LabelInMask):
    """The seed's class is raised near the decision boundary alone."""

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.sample_seeds is not None
        logits = TwoStage.classify(self, images, masks, context)
        named = functional.one_hot(_labels_by_seed()[context.sample_seeds], CLASSES).to(logits)
        return logits + 2 * (-(_gap(logits)[:, None] / 0.02).square()).exp() * named


class LabelInDigits(TwoStage):
    """The mask that is given with the image names the class in the thousandths of a corner."""

    strength = 3.0

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        code = (1000 * masks[:, 0, 0, 0]).round().long() % 10 % CLASSES
        return super().classify(images, masks, context) + self.strength * functional.one_hot(code, CLASSES).to(images)


class LabelWhisperedInDigits(LabelInDigits):
    strength = 1.5


class LabelOfSomeClasses(LabelInMask):
    """Named for two of four classes, by the seed."""

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.sample_seeds is not None
        labels = _labels_by_seed()[context.sample_seeds]
        named = functional.one_hot(labels, CLASSES).to(images.dtype) * (labels < 2)[:, None]
        return TwoStage.classify(self, images, masks, context) + 50 * named


@dataclass
class _Table:
    labels: Tensor | None = None


_TABLE = _Table()


def _labels_by_seed() -> Tensor:
    if _TABLE.labels is None:
        _TABLE.labels = honest_batch(MaskSource.ORACLE).labels
    return _TABLE.labels
