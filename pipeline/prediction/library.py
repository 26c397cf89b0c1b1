"""What ``foreguard predict`` does, as functions: a trained system from its run, and what it says of images."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.arithmetic import tf32_disabled
from pipeline.config import parse_path
from pipeline.data.seeds import sample_seed
from pipeline.errors import ConfigError, printable, said, shortened
from pipeline.evaluation.doubts import doubts_about
from pipeline.evaluation.inputs import check_outputs, checked_images, checked_logits, checked_masks, checked_system, device_of
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext
from pipeline.prediction.choice import choose_system, load_trained_system
from pipeline.runs.hub import SCHEME, fetch
from pipeline.shapes import Images, Labels, Masks, Scores
from pipeline.system import TwoStage, attacked, clean_context, masks_and_logits

FEW = 8
"""Images that tell whether answers are doubtful."""


class Predictions(NamedTuple):
    """What a system says of images, in their order and on their device."""

    labels: Labels
    """The class of the largest logit."""
    confidences: Scores
    """Its softmax: the classifier's own probability, in [0,1], not calibrated."""
    masks: Masks
    """What the classifier saw the images through, in [0,1]; all ones where there is no mask."""


def load_system(
    run: Path | str,
    *,
    arm: str | None = None,
    segmenter_run: Path | str | None = None,
    masks: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> TwoStage:
    """The trained system of a run, ready to be attacked: eval mode, float32, channels last.

    Args:
        run: a classifier's run (or the JSON of one of its checkpoints), an evaluation (the system that was attacked), an ablation
            (the system that its report's answer is about), a directory of ``foreguard export``, or ``hf://user/name`` for one on
            the Hugging Face hub (``@revision`` behind it, where the newest is not meant), or ``zoo:NAME`` for one behind a
            published figure (``foreguard list zoo``).
        arm: the name of another system of the ablation, as its report and ``ablation.json`` have it.
        segmenter_run: another segmenter's run.
        masks: what of the masks is other than there, by the names of ``MaskConfig``: ``{"source": "learned", "fill": "black"}``.
        device: where it is put.

    Raises:
        RunError, CheckpointError, DataError: what is at that place cannot be used.
        ConfigError: an arm or a setting that does not exist, a segmenter that is missing or not needed.

    Examples:
        >>> from pipeline import load_system
        >>> load_system("no/such/run")
        Traceback (most recent call last):
        ...
        pipeline.errors.CheckpointError: no/such/run: cannot be read: No such file or directory
    """
    if not isinstance(masks or {}, Mapping):
        raise ConfigError(f"masks is {masks!r}, expected a mapping such as {{'source': 'learned'}}")
    on_device = _device(device)
    known = MaskConfig(**(masks or {}))  # every value checked, and made what the field holds
    changes: Any = {name: getattr(known, name) for name in masks or {}}
    place = fetch(run) if isinstance(run, str) and run.startswith(SCHEME) else _path("run", run)
    chosen = choose_system(place, None if segmenter_run is None else _path("segmenter_run", segmenter_run), changes, arm=arm)
    system, _ = load_trained_system(chosen, device=on_device, with_data=True)
    return system.to(memory_format=torch.channels_last)


def _path(name: str, value: object) -> Path:
    try:
        parsed = parse_path(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    if not isinstance(parsed, Path):
        raise ConfigError(f"{name} is {shortened(printable(repr(value)))}, expected a path")
    return parsed


def _device(name: torch.device | str) -> torch.device:
    """The device, if something can be put there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError, ValueError, NotImplementedError) as error:  # torch built without it asserts
        raise ConfigError(f"device: {str(name)!r} cannot be used: {said(error, 160)}") from error
    return device


@torch.no_grad()
def predict(system: nn.Module, images: Images, *, masks: Masks | None = None) -> Predictions:
    """Classes, confidences and masks of images (B,3,H,W) in [0,1], in eval mode; the system's own mode is restored.

    ``masks`` (B,1,H,W) are the oracle's, where the system's masks are made from them. Raises InputError for images, masks or
    outputs that cannot be, ValueError where the system needs oracle masks and there are none.

    Examples:
        >>> import torch
        >>> from pipeline import TwoStage, predict
        >>> segmenter = torch.nn.Conv2d(3, 1, 1)
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> found = predict(TwoStage(classifier, segmenter=segmenter, masks="learned", fill="grey"), torch.rand(4, 3, 8, 8))
        >>> found.labels.shape, found.masks.shape
        (torch.Size([4]), torch.Size([4, 1, 8, 8]))
    """
    wrapped, pictures = checked_system(system), checked_images(images)
    device = device_of(wrapped)
    seeds = torch.tensor([sample_seed(f"{position:06d}") for position in range(len(pictures))])
    oracle = None if masks is None else checked_masks(masks, pictures).to(device)
    context = MaskContext(oracle_masks=oracle, sample_seeds=seeds.to(device))
    on_device = pictures.to(device)
    with tf32_disabled(device), attacked(wrapped):
        known = clean_context(wrapped, on_device, context)
        checked_logits(wrapped, on_device[:1], known.select(torch.zeros_like(seeds[:1]).to(device)))
        seen, logits = masks_and_logits(wrapped, on_device, known)
        check_outputs(logits, len(pictures))
        few = torch.arange(min(len(pictures), FEW), device=device)
        for doubt in doubts_about(wrapped, on_device[few], known.select(few), logits[few]):
            warnings.warn(doubt, stacklevel=2)
    confidences, labels = logits.softmax(dim=1).max(dim=1)
    return Predictions(*(values.to(pictures.device) for values in (labels, confidences, seen)))
