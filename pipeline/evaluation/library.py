"""What ``foreguard evaluate`` does, as functions of somebody's own module and images: ``evaluate`` and ``attack``.

They run the same loop as the command (``evaluator``), on the same records: on a prepared data set the outcomes are the command's,
to the bit.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from pipeline.arithmetic import tf32_disabled
from pipeline.attacks.acceleration import copy_to_search
from pipeline.attacks.diagnostics import Check
from pipeline.attacks.runner import run_attack, skipped_attacks
from pipeline.attacks.shipped import attacks_by_name, spec_by_name
from pipeline.attacks.specs import AttackSpec
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Norm, ThreatModel
from pipeline.attacks.tracker import Observer
from pipeline.config import BatchSize, Seed, configuration, validate
from pipeline.config import Images as Count
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.splits import Split
from pipeline.data.substitutes import with_substitutes
from pipeline.errors import ConfigError, InputError
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.diagnostics import sanity_checks
from pipeline.evaluation.doubts import Repeats, doubts_about
from pipeline.evaluation.evaluate import guide_masks
from pipeline.evaluation.evaluator import EvaluationRun, EvaluationSettings, applicable, attack_chunk, attack_images
from pipeline.evaluation.inputs import (
    checked_batch,
    checked_labels,
    checked_logits,
    checked_system,
    device_of,
    own_batches,
)
from pipeline.evaluation.label_order import doubt_about_labels
from pipeline.evaluation.own import OwnImages, attack_batch_of, in_parts, mixed
from pipeline.evaluation.preprocessing import SHOWN, doubts_about_preprocessing
from pipeline.evaluation.records import MemoryStore
from pipeline.evaluation.summary import Evaluation
from pipeline.runs.checkpoints import state_digest
from pipeline.shapes import Images, Labels, Masks
from pipeline.system import System, TwoStage

PART = 256
"""Images that are attacked together, as by the command."""
FEW = 8
"""Images that tell whether a system can be attacked."""


@configuration
class _Call:
    """What is asked for beside system, data and attacks, checked as the keys of a command are."""

    batch_size: BatchSize
    seed: Seed
    split: Split = "test"
    max_images: Count | None = None
    diagnostics: bool = False


def evaluate(
    system: nn.Module,
    data: PreparedDataset | Path | str | Iterable[Any],
    *,
    norm: Norm = "linf",
    epsilons: Sequence[float | str] | float | str = (8 / 255,),
    attacks: str | Sequence[str] | Mapping[str, AttackSpec] = "standard",
    threat: ThreatModel | None = None,
    split: Split = "test",
    max_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    diagnostics: bool = False,
) -> Evaluation:
    """Attack a system and say how many images it still gets right.

    Args:
        system: a module from images (B,3,H,W) in [0,1] to logits (B,K), normalisation included: any ``nn.Module``, a ``TwoStage``,
            or somebody's own ``System`` with a mask. On its device, in float32 or wider. It is attacked in eval mode; its mode and
            its parameters' ``requires_grad`` are as before afterwards.
        data: batches of (images, labels) or (images, labels, masks), such as a ``DataLoader`` that does not shuffle; or a prepared
            data set or its path. Masks are foreground shares (B,1,H,W) in [0,1]. Images of a loader are known by their position,
            and taken to be independent of each other.
        norm: of the perturbation, linf, l2 or l1.
        epsilons: largest norm of the perturbation, ``8 / 255`` or ``"8/255"``; or several, rising.
        attacks: the attacks of a shipped suite (configs/attack: standard, autoattack, fast ...), names of attacks in them, or
            attacks by a name of yours.
        threat: in place of norm and epsilons, for regions and hidden seeds.
        split: of a prepared data set.
        max_images: attack only so many: the first of a loader, or those of a prepared data set that the command takes.
        batch_size: images in a batch. Changes speed and memory, and verdicts no more than rounding does.
        seed: decides the random starts.
        diagnostics: also run the sanity checks (on 64 images that are right clean; of a loader among 256 from all over it).

    Returns:
        Estimates with intervals, and an outcome for every image, attack and epsilon.

    Raises:
        InputError: images, labels, masks or outputs that cannot be, each with what would be right.
        ConfigError: an unknown suite or attack, an epsilon or another setting that cannot be, a suite none of whose attacks applies
            to the system.

    Examples:
        >>> import torch
        >>> from pipeline import evaluate
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> images = torch.rand(20, 3, 8, 8)
        >>> labels = model(images).argmax(1)
        >>> result = evaluate(model, [(images, labels)], epsilons=["1/255", "8/255"], attacks="fast")
        >>> print(result.clean_accuracy())
        100.0 % [83.9, 100.0] n=20
        >>> print(result.robust_accuracy("8/255"))
        5.0 % [0.9, 23.6] n=20
        >>> result.outcomes.shape
        (80, 27)
    """
    wrapped = _attackable(system)
    settled = {"batch_size": batch_size, "seed": seed, "split": split, "max_images": max_images, "diagnostics": diagnostics}
    call = validate(_Call, settled)
    model = ThreatModel(norm=norm, epsilons=epsilons) if threat is None else _checked_threat(threat)  # type: ignore[arg-type]
    settings = EvaluationSettings(
        system=wrapped,
        system_id=state_digest(system)[:16],
        suite=AttackSuite(threat=model, attacks=attacks_by_name(attacks)),
        seed=call.seed,
        batch_size=call.batch_size,
    )
    device = device_of(wrapped)
    with tf32_disabled(device):
        if isinstance(data, PreparedDataset | Path | str):
            dataset = data if isinstance(data, PreparedDataset) else open_prepared(Path(data))
            return _on_prepared(settings, dataset, call, device)
        return _on_own(settings, data, call, device)


def attack(
    system: nn.Module,
    images: Images,
    labels: Labels,
    attack: str | AttackSpec = "apgd-margin",
    *,
    epsilon: float | str = 8 / 255,
    norm: Norm = "linf",
    masks: Masks | None = None,
    threat: ThreatModel | None = None,
    batch_size: int = 64,
    seed: int = 0,
    observer: Observer | None = None,
) -> Images:
    """Adversarial images: for each image the point of the ball with the largest margin that one attack found.

    The attack runs to its end on every image, also on those that are misclassified before, so the images are as strong as it makes
    them. Nothing says that one is misclassified: ask the system.

    Args:
        system: as for ``evaluate``.
        images: (B,3,H,W) in [0,1].
        labels: (B,), class indices.
        attack: the name of an attack of a shipped suite (configs/attack, standard first), or a specification.
        epsilon: largest norm of the perturbation; ``8 / 255`` or ``"8/255"``.
        norm: linf, l2 or l1.
        masks: (B,1,H,W) foreground shares in [0,1]: for oracle masks, regions, and attacks that invert them.
        threat: in place of the norm, for regions and hidden seeds; its epsilons play no part.
        batch_size: images that are attacked together. Changes speed and memory.
        seed: decides the random starts.
        observer: called with every batch of points that a search of a gradient visits, and their margins: to look on.

    Returns:
        Images in the ball and in [0,1], on the images' device.

    Raises:
        InputError, ConfigError: as ``evaluate``; ConfigError also for an attack that says nothing about the system.

    Examples:
        >>> import torch
        >>> from pipeline import attack
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> images = torch.rand(4, 3, 8, 8)
        >>> labels = model(images).argmax(1)
        >>> adversarial = attack(model, images, labels, "apgd-margin", epsilon=8 / 255)
        >>> bool(((adversarial - images).abs() <= 8 / 255 + 1e-6).all())
        True
        >>> (model(adversarial).argmax(1) == labels).tolist()
        [False, False, False, False]
    """
    wrapped = _attackable(system)
    call = validate(_Call, {"batch_size": batch_size, "seed": seed})
    epsilons: Any = (epsilon,)
    model = ThreatModel(norm=norm, epsilons=epsilons) if threat is None else replace(_checked_threat(threat), epsilons=epsilons)
    if observer is not None and not callable(observer):
        raise ConfigError(f"observer is a {type(observer).__name__}, expected a function")
    named = {attack: spec_by_name(attack)} if isinstance(attack, str) else {getattr(attack, "kind", "attack"): attack}
    suite = AttackSuite(threat=model, attacks=named)
    checked = checked_batch(images, labels, masks)
    device = device_of(wrapped)
    with tf32_disabled(device):
        batch = attack_batch_of(wrapped, checked, positions=range(len(checked.labels)), device=device, batch_size=call.batch_size)
        num_classes = _num_classes(batch, min(call.batch_size, len(batch)))
        checked_labels(checked.labels, count=len(checked.labels), num_classes=num_classes)
        skipped_attacks(suite, batch)
        (name, spec), *_ = suite.attacks.items()
        copy = copy_to_search(wrapped, batch.images, batch.context)
        found = run_attack(
            name,
            spec,
            batch,
            threat=model,
            epsilon=model.epsilons[0],
            run_seed=call.seed,
            batch_size=call.batch_size,
            stop_at_success=False,
            copy=copy,
            observer=observer,
        )
    return found.images.to(checked.images.device)


def _checked_threat(threat: object) -> ThreatModel:
    if not isinstance(threat, ThreatModel):
        raise ConfigError(f"threat is a {type(threat).__name__}, expected a ThreatModel")
    return threat


def _on_prepared(settings: EvaluationSettings, dataset: PreparedDataset, call: _Call, device: torch.device) -> Evaluation:
    if isinstance(settings.system, TwoStage):
        dataset = with_substitutes(dataset, settings.system.mask_config.source.substitute)
    run = EvaluationRun(
        **vars(replace(settings, guides=guide_masks(dataset, device))),
        dataset=dataset,
        rows=choose_rows(dataset, call.split, call.max_images),
        chunk_size=PART,
    )
    num_classes = _num_classes(run.batch(run.rows[:SHOWN], device), min(call.batch_size, len(run.rows)))
    if num_classes != dataset.num_classes:
        raise InputError(f"the system has {num_classes} classes, and {dataset.path} has {dataset.num_classes}")
    suite, skipped = applicable(run.suite, run.batch(run.rows[:1], device))
    run, store = replace(run, suite=suite), MemoryStore()
    attack_images(run, store, device=device, advance=lambda _: None)
    records = store.records()
    names = dataset.classes
    checks = sanity_checks(run, store, records, num_images=64, device=device, class_names=names) if call.diagnostics else None
    return _evaluation(records, suite.threat, skipped, checks, names)


def _on_own(settings: EvaluationSettings, data: Iterable[Any], call: _Call, device: torch.device) -> Evaluation:
    records: list[pl.DataFrame] = []
    skipped: dict[str, str] = {}
    examined: OwnImages | None = None
    copy: System | None = None
    first, num_classes, repeats = 0, 0, Repeats()
    for own in in_parts(own_batches(data), size=PART, max_images=call.max_images):
        images = OwnImages(**vars(settings), own=own, positions=np.arange(first, first + len(own.labels)))
        if copy is None:
            few = images.batch(images.rows[:FEW], device)
            num_classes = _num_classes(images.batch(images.rows[:SHOWN], device), min(call.batch_size, len(own.labels)))
            suite, skipped = applicable(settings.suite, few)
            settings, images = replace(settings, suite=suite), replace(images, suite=suite)
            copy = copy_to_search(settings.system, few.images, few.context)
        checked_labels(own.labels, count=len(own.labels), num_classes=num_classes)
        chunk, store = images.chunk(images.rows, device), MemoryStore()
        attack_chunk(images, store, chunk, images.units(0), copy, advance=lambda _: None)
        records.append(store.records())
        if call.diagnostics:
            examined = mixed([*(() if examined is None else (examined,)), images], PART)
        first += len(own.labels)
        repeats.add(own.images)
    if not records:
        raise InputError("the data hold no batch: there is nothing to attack (a generator can be gone through only once)")
    outcomes = pl.concat(records)
    if (doubt := repeats.doubt()) is not None:
        warnings.warn(doubt, stacklevel=3)
    checks: list[Check] | None = None
    if examined is not None:
        of_these = outcomes.filter(pl.col("sample_id").is_in(examined.sample_ids(examined.rows)))
        checks = sanity_checks(examined, MemoryStore(), of_these, num_images=64, device=device)
    return _evaluation(outcomes, settings.suite.threat, skipped, checks, None)


def _attackable(system: nn.Module) -> System:
    if torch.is_inference_mode_enabled():
        raise InputError("torch.inference_mode() is on, in which nothing has a gradient: call this outside of it")
    return checked_system(system)


def _evaluation(
    records: pl.DataFrame,
    threat: ThreatModel,
    skipped: Mapping[str, str],
    checks: list[Check] | None,
    classes: tuple[str, ...] | None,
) -> Evaluation:
    if (doubt := doubt_about_labels(records)) is not None:
        warnings.warn(doubt, stacklevel=4)
    made = None if checks is None else tuple(checks)
    return Evaluation(outcomes=records, threat=threat, skipped=skipped, checks=made, classes=classes)


def _num_classes(batch: AttackBatch, batch_size: int) -> int:
    """How many classes a system tells apart, which says of the first of these clean images what attacks need. Raises InputError."""
    shown, few = (batch.select(torch.arange(min(len(batch), count), device=batch.images.device)) for count in (SHOWN, FEW))
    logits = checked_logits(few.system, few.images, few.context, batch_size=batch_size)
    for doubt in (*doubts_about(few.system, few.images, few.context, logits), *doubts_about_preprocessing(shown)):
        warnings.warn(doubt, stacklevel=4)
    return logits.shape[1]
