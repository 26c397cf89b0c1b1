"""The command ``foreguard evaluate``: attack a trained system and say how many images it still gets right.

What only the work itself needs is imported when it begins: neither ``--help`` nor a typo should wait for it.
"""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from pipeline.attacks.suite import AttackSuite
from pipeline.config import to_plain
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.interrupts import Interrupted

if TYPE_CHECKING:
    from pipeline.attacks.two_stage import GuideMasks
    from pipeline.data.dataset import PreparedDataset
    from pipeline.evaluation.evaluator import EvaluationRun
    from pipeline.evaluation.loading import Subject
    from pipeline.evaluation.records import RecordStore

GUIDES = 256
"""Masks of the validation images that attacks with the goal ``steal`` choose from."""


def evaluate(config: EvaluateConfig) -> None:
    """Run an evaluation, or continue it, and print its figures. Raises ``UserError`` of the kind that fits."""
    from pipeline.attacks.allocator import keep_freed_pages
    from pipeline.data.dataset import open_prepared
    from pipeline.data.substitutes import with_substitutes
    from pipeline.evaluation.chunks import choose_rows
    from pipeline.evaluation.evaluator import EvaluationRun, applicable
    from pipeline.evaluation.records import RecordStore
    from pipeline.runs.directory import open_run

    device = choose_device(config.accelerator)
    keep_freed_pages()
    dataset = open_prepared(config.prepared)
    subject = _subject(config, dataset, device)
    dataset = with_substitutes(subject.dataset, subject.masks.source.substitute if subject.masks else None)
    run = EvaluationRun(
        system=subject.system,
        system_id=subject.system_id,
        dataset=dataset,
        rows=choose_rows(dataset, config.split, config.max_images),
        suite=config.attack,
        seed=config.seed,
        batch_size=config.batch_size,
        chunk_size=config.part_size,
        attack_all=config.attack_all,
        save_images=config.save_images,
        guides=guide_masks(dataset, device),
        precision=config.precision,
    )
    suite, skipped = applicable(run, device=device)
    run = dataclasses.replace(run, suite=suite)
    inputs = {"data set": dataset.fingerprint, **subject.inputs, **order_of_attacks(config.attack)}
    with (
        open_run(config.run, command="evaluate", config=to_plain(config), inputs=inputs, resume=config.resume),
        tf32_disabled(device),
    ):
        store = RecordStore(config.run)
        _attack(config, run, store, device)
        _measure(config, run, device)
        _report(config, run, subject, store, skipped, device)


def _subject(config: EvaluateConfig, dataset: "PreparedDataset", device: torch.device) -> "Subject":
    from pipeline.evaluation.loading import load_subject
    from pipeline.evaluation.own_system import load_own

    if config.system is not None:
        return load_own(config.system, dataset=dataset, device=device)
    assert config.classifier_run is not None
    return load_subject(
        classifier_run=config.classifier_run,
        segmenter_run=config.segmenter_run,
        masks=config.masks,
        dataset=dataset,
        allow_other_data=config.allow_other_data,
        device=device,
        class_map=config.class_map,
    )


def _measure(config: EvaluateConfig, run: "EvaluationRun", device: torch.device) -> None:
    from pipeline.evaluation.measuring import measure_images, missing_observations
    from pipeline.progress import progress_bar

    with progress_bar("measure", total=missing_observations(run, config.run), unit="observations") as step:

        def advance(finished: int) -> None:
            for _ in range(finished):
                step()

        measure_images(run, config.run, device=device, advance=advance)


def _attack(config: EvaluateConfig, run: "EvaluationRun", store: "RecordStore", device: torch.device) -> None:
    from pipeline.evaluation.evaluator import attack_images
    from pipeline.progress import progress_bar

    recorded = store.units()
    missing = {unit for chunk in range(run.num_chunks) for unit in run.units(chunk)} - recorded
    total = sum(len(run.chunk_rows(unit.chunk)) for unit in missing)
    done = 0
    try:
        with progress_bar("attack", total=total, unit="records") as step:

            def advance(finished: int) -> None:
                nonlocal done
                done += finished
                for _ in range(finished):
                    step()

            attack_images(run, store, device=device, advance=advance)
    except KeyboardInterrupt as interrupt:
        where = f"with {total - done} records to go, none lost; continue with resume=true run={config.run}"
        raise Interrupted.by(interrupt, where) from interrupt


def _report(
    config: EvaluateConfig,
    run: "EvaluationRun",
    subject: "Subject",
    store: "RecordStore",
    skipped: dict[str, str],
    device: torch.device,
) -> None:
    from pipeline.evaluation.diagnostics import sanity_checks
    from pipeline.evaluation.gallery import write_gallery
    from pipeline.evaluation.measured import MEASURED, MeasurementReport, figures, measured_lines
    from pipeline.evaluation.measuring import read_observations
    from pipeline.evaluation.records import read_records
    from pipeline.evaluation.summary import SANITY, SUMMARY, SanityReport, check_lines, lines, summarise

    records = read_records(config.run)
    if config.gallery_images:
        write_gallery(config.run, run, records, per_outcome=config.gallery_images, device=device)
    summary = summarise(
        records,
        run,
        own=config.system,
        masks=subject.masks,
        trained_masks=subject.trained_masks,
        split=config.split,
        skipped=skipped,
    )
    summary.write(config.run / SUMMARY)
    print("\n".join(lines(summary)))
    observations = read_observations(config.run)
    if observations is not None:
        found = figures(observations, run.suite.measurements)
        MeasurementReport(figures=tuple(found)).write(config.run / MEASURED)
        print("\n".join(measured_lines(found)))
    if config.sanity:
        checks = sanity_checks(run, store, records, num_images=config.sanity_images, device=device, epsilon=config.sanity_epsilon)
        SanityReport(images=config.sanity_images, checks=tuple(checks)).write(config.run / SANITY)
        print("\n".join(check_lines(checks)))
    print(f"records, summary and how they were made: {config.run}")


def order_of_attacks(suite: AttackSuite) -> dict[str, str]:
    """What a run of ``evaluate`` records among its inputs beside fingerprints: an attack is known by its position in the suite, and
    what it meets are the images that those before it left standing."""
    measured = {"order of the measurements": ", ".join(suite.measurements)} if suite.measurements else {}
    return {"order of the attacks": ", ".join(suite.attacks), **measured}


def choose_device(accelerator: str) -> torch.device:
    """The device that attacks run on. Raises ConfigError where this machine has none of the kind."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if not available[accelerator]:
        raise ConfigError(f"accelerator={accelerator}: there is none on this machine; foreguard doctor says what there is")
    return torch.device(accelerator)


def tf32_disabled(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions in float32: on a GPU their default is TF32, whose rounding is as large as a small perturbation."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def guide_masks(dataset: "PreparedDataset", device: torch.device) -> "GuideMasks | None":
    """Masks of validation images for attacks that steal one; None where all are of one class."""
    from pipeline.attacks.two_stage import GuideMasks
    from pipeline.data.loader import read_rows
    from pipeline.evaluation.chunks import choose_rows

    if not (dataset.samples["split"] == "val").any():
        return None
    batch = read_rows(dataset, choose_rows(dataset, "val", GUIDES)).to(device)
    return GuideMasks(masks=batch.masks, labels=batch.labels) if len(set(batch.labels.tolist())) > 1 else None
