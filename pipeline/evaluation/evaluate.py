"""The command ``foreguard evaluate``: attack a trained system and say how many images it still gets right."""

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from pipeline.arithmetic import tf32_disabled
from pipeline.attacks.allocator import keep_freed_pages
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Knowledge
from pipeline.attacks.two_stage import GuideMasks
from pipeline.config import to_plain
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.loader import read_rows
from pipeline.data.substitutes import with_substitutes
from pipeline.errors import RunError
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.devices import choose_device, part_takers
from pipeline.evaluation.diagnostics import ASKED, sanity_checks
from pipeline.evaluation.evaluator import EvaluationRun, applicable, attack_images, missing_records
from pipeline.evaluation.gallery import GALLERY, write_gallery
from pipeline.evaluation.label_order import doubt_about_labels
from pipeline.evaluation.loading import LoadedSystem, load_from_runs
from pipeline.evaluation.measured import MEASURED, MeasurementReport, figures, measured_lines
from pipeline.evaluation.measuring import MEASUREMENTS, measure_images, missing_observations, read_observations
from pipeline.evaluation.own_system import load_own
from pipeline.evaluation.records import RECORDS, RecordStore, read_records
from pipeline.evaluation.sharing import CLAIMS, progress_and_turns
from pipeline.evaluation.summary import (
    SANITY,
    SUMMARY,
    SanityReport,
    Summary,
    check_lines,
    epsilon_text,
    is_checked,
    version_of_checks,
)
from pipeline.interrupts import told
from pipeline.progress import progress_bar
from pipeline.runs.directory import open_run, read_run
from pipeline.runs.sharing import once
from pipeline.runs.zoo import SCHEME, find

GUIDES = 256
"""Masks of the validation images that attacks with the goal ``steal`` choose from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedEvaluation:
    """What is evaluated, loaded."""

    config: EvaluateConfig
    device: torch.device
    loaded: LoadedSystem
    run: EvaluationRun
    skipped: dict[str, str]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run an evaluation, or continue it, print its figures and return them. Raises ``UserError`` of the kind that fits."""
    evaluation = load_evaluation(config)
    with part_takers(config, evaluation.device, take_parts) as start_others, _opened(evaluation):
        if config.shared:
            print(f"process {os.getpid()} on {platform.node()} takes parts of {config.run}", file=sys.stderr, flush=True)
        start_others()
        _record(evaluation, shown=True)
        _sum_up(evaluation)
        print(f"records, summary and how they were made: {config.run}")
    found: dict[str, Any] = {"run": config.run, "summary": Summary.read(config.run / SUMMARY)}
    if config.sanity:
        found["checks"] = SanityReport.read(config.run / SANITY).checks
    if config.attack.measurements:
        found["measurements"] = MeasurementReport.read(config.run / MEASURED).figures
    return found


def take_parts(config: EvaluateConfig) -> None:
    """Do a share of an evaluation that another process has begun, shows and sums up. Raises as ``evaluate``."""
    evaluation = load_evaluation(config)
    with _opened(evaluation):
        _record(evaluation, shown=False)


def load_evaluation(config: EvaluateConfig) -> LoadedEvaluation:
    """Data, system and attacks of an evaluation. Raises ``UserError`` of the kind that fits."""
    device = choose_device(config.accelerator, shared=config.is_shared)
    keep_freed_pages()
    dataset = open_prepared(config.prepared)
    loaded = _loaded_system(config, dataset, device)
    dataset = with_substitutes(loaded.dataset, loaded.masks.source.substitute if loaded.masks else None)
    run = EvaluationRun(
        system=loaded.system,
        system_id=loaded.system_id,
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
    suite, skipped = applicable(run.suite, run.batch(run.rows[:1], device))
    run = dataclasses.replace(run, suite=suite)
    return LoadedEvaluation(config=config, device=device, loaded=loaded, run=run, skipped=skipped)


@contextmanager
def _opened(evaluation: LoadedEvaluation) -> Iterator[None]:
    config, loaded = evaluation.config, evaluation.loaded
    inputs = {"data set": evaluation.run.dataset.fingerprint, **loaded.inputs, **order_of_attacks(config.attack)}
    plain, resume = to_plain(config), config.resume or config.shared
    with (
        open_run(config.run, command="evaluate", config=plain, inputs=inputs, resume=resume, shared=config.is_shared),
        tf32_disabled(evaluation.device),
        told(f"with all that is finished kept in {config.run}; the same command with {_again(config)} continues"),
    ):
        yield


def _again(config: EvaluateConfig) -> str:
    return "shared=true" if config.shared else "resume=true"


def _record(evaluation: LoadedEvaluation, *, shown: bool) -> None:
    """Make what is missing of records and observations, or a share of it where others make it too."""
    config, run, device = evaluation.config, evaluation.run, evaluation.device
    store, progress = RecordStore(config.run), partial(progress_and_turns, shared=config.is_shared, shown=shown)
    missing, results = partial(missing_records, run, store), config.run / RECORDS
    with (
        told(lambda: f"with {missing()} records to go, none lost; continue with {_again(config)} run={config.run}"),
        progress("attack", results=results, missing=missing, unit="records") as (advance, turns),
    ):
        attack_images(run, store, device=device, advance=advance, turns=turns)
    if not run.suite.measurements:
        return
    missing, results = partial(missing_observations, run, config.run), config.run / MEASUREMENTS
    with progress("measure", results=results, missing=missing, unit="observations") as (advance, turns):
        measure_images(run, config.run, device=device, advance=advance, turns=turns)


def _loaded_system(config: EvaluateConfig, dataset: PreparedDataset, device: torch.device) -> LoadedSystem:
    classifier_run = config.classifier_run
    if config.system is not None and config.system.startswith(SCHEME):
        classifier_run = find(config.system)[0]
    elif config.system is not None:
        return load_own(config.system, dataset=dataset, device=device)
    assert classifier_run is not None
    return load_from_runs(
        classifier_run=classifier_run,
        segmenter_run=config.segmenter_run,
        masks=config.masks,
        dataset=dataset,
        allow_other_data=config.allow_other_data,
        device=device,
        class_map=config.class_map,
    )


def _sum_up(evaluation: LoadedEvaluation) -> None:
    """By the process that comes first, where several share the run: it comes when everything is recorded. One that was not told to
    share sums up in any case, as with resume=true."""
    config, run = evaluation.config, evaluation.run
    if not config.is_shared:
        _report(evaluation)
        return
    wanted = {SUMMARY: True, GALLERY: config.gallery_images > 0, MEASURED: bool(run.suite.measurements)}

    def done() -> bool:
        there = all((config.run / name).is_file() for name, asked in wanted.items() if asked)
        images, epsilon = config.sanity_images, config.sanity_epsilon
        return config.shared and there and (not config.sanity or is_checked(config.run, images=images, epsilon=epsilon))

    once(config.run / CLAIMS / "summary.lock", config.run, done=done, work=partial(_report, evaluation))


def _report(evaluation: LoadedEvaluation) -> None:
    config, run, loaded, device = evaluation.config, evaluation.run, evaluation.loaded, evaluation.device
    if lost := missing_records(run, RecordStore(config.run)):
        raise RunError(f"{config.run / RECORDS}: {lost} records that were made are gone: leave {config.run} alone meanwhile")
    records = read_records(config.run)
    if config.gallery_images:
        write_gallery(config.run, run, records, per_outcome=config.gallery_images, device=device)
    summary = Summary(
        system=run.system_id,
        data=run.dataset.name,
        split=config.split,
        own=config.system if loaded.masks is None else None,
        mask_source=run.system.mask_traits.source,
        masks=loaded.masks,
        trained_masks=loaded.trained_masks,
        norm=run.suite.threat.norm,
        region=run.suite.threat.region.value,
        classes=run.dataset.classes,
        skipped=evaluation.skipped,
        **Summary.figures_of(records),
    )
    observations = read_observations(config.run)
    measured = [] if observations is None else figures(observations, run.suite.measurements)
    if observations is not None:
        MeasurementReport(figures=tuple(measured)).write(config.run / MEASURED)
    summary.write(config.run / SUMMARY)  # after all that it stands for: an ablation takes an evaluation that has it for finished
    print("\n".join([*summary.lines(), *_beside_published(config, summary), *measured_lines(measured)]))
    if (doubt := doubt_about_labels(records)) is not None:
        print(f"BEWARE: {doubt}")
    if run.suite.threat.knowledge == Knowledge.HIDDEN_SEED:
        print("the attacker does not know the seeds of random masks and noise: report these figures beside the white-box ones")
    if config.sanity:
        images, epsilon = config.sanity_images, config.sanity_epsilon
        with progress_bar("sanity checks", total=ASKED, unit="checks") as advance:
            checks = sanity_checks(
                run,
                RecordStore(config.run),
                records,
                class_names=run.dataset.classes,
                num_images=images,
                device=device,
                epsilon=epsilon,
                advance=advance,
            )
        report = SanityReport(images=images, epsilon=epsilon, version=version_of_checks(), checks=tuple(checks))
        report.write(config.run / SANITY)
        print("\n".join(check_lines(checks)))


def _beside_published(config: EvaluateConfig, summary: Summary) -> list[str]:
    """Of a system of the zoo, whether the figures are those that were published, where they are of the same data and attacks."""
    if config.system is None or not config.system.startswith(SCHEME):
        return []
    entry = find(config.system)[1]
    if not entry.is_bound_to(fingerprint=read_run(config.run).inputs["data set"], settings=to_plain(config)):
        return [f"published figures of {config.system} are of other data, images, attacks or another seed: not compared"]
    found = {0.0: summary.clean_accuracy} | {point.epsilon: point.robust_accuracy for point in summary.curve if point.epsilon > 0}
    text = []
    for one in entry.figures:
        right, where = round(found[one.epsilon].value * found[one.epsilon].n), epsilon_text(one.epsilon) if one.epsilon else "clean"
        same = "the same" if (right, found[one.epsilon].n) == (one.right, one.images) else f"{right} here"
        text.append(f"published, {where}: {one.right} of {one.images} right; {same}")
    return text


def order_of_attacks(suite: AttackSuite) -> dict[str, str]:
    """What a run of ``evaluate`` records among its inputs beside fingerprints: an attack is known by its position in the suite, and
    what it meets are the images that those before it left standing."""
    measured = {"order of the measurements": ", ".join(suite.measurements)} if suite.measurements else {}
    return {"order of the attacks": ", ".join(suite.attacks), **measured}


def guide_masks(dataset: PreparedDataset, device: torch.device) -> GuideMasks | None:
    """Masks of validation images for attacks that steal one; None where all are of one class."""
    if not (dataset.samples["split"] == "val").any():
        return None
    batch = read_rows(dataset, choose_rows(dataset, "val", GUIDES)).to(device)
    return GuideMasks(masks=batch.masks, labels=batch.labels) if len(set(batch.labels.tolist())) > 1 else None
