"""Run the grid of an ablation: train what is missing, reuse what is there, attack, and write down what belongs together.

``ablation.json`` in the directory of the ablation lists the arms that are finished. It is written anew after each of them, so that
an ablation can be reported before it has come to its end.
"""

import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.devices import job_takers
from pipeline.ablation.grid import jobs
from pipeline.ablation.job import ImageCounts, Job, JobState
from pipeline.ablation.manifest import write_manifest
from pipeline.ablation.own_job import build_systems, try_systems
from pipeline.ablation.plan import Progress, Step, estimate, lines, plan, table
from pipeline.config import to_plain
from pipeline.data.config import PrepareConfig, SyntheticConfig
from pipeline.data.dataset import MANIFEST, read_manifest
from pipeline.data.prepare import prepare
from pipeline.errors import DataError, OccupiedError, RunError, UserError
from pipeline.evaluation.summary import SANITY
from pipeline.interrupts import told
from pipeline.runs.directory import check_run, open_run
from pipeline.runs.files import canonical_sha256, file_sha256, read_bytes, write_atomically
from pipeline.runs.locking import locked, wait_until_free
from pipeline.runs.sharing import once

LOG = Path("ablation.log")
"""What the commands of the jobs print; a file for each process that shares the ablation."""
_REPORTED = ".reported"
_LOOK_S = 2.0
"""How often a process that finds nothing to do looks again."""


def run_ablation(config: AblateConfig, report: Callable[[], object] = lambda: None) -> list[Step]:
    """Bring an ablation to its end, or continue it; a dry run says what would be done and changes nothing. Returns what was to do.

    ``report`` is called at the end; where processes share the ablation, by the one that comes first.

    Raises UserError of the kind that fits, with the job where it happened, and KeyboardInterrupt with a message for the user.
    """
    fingerprint = prepared_fingerprint(config)
    inputs = {} if fingerprint is None else {"data set": fingerprint}
    check_run(config.run, command="ablate", config=to_plain(config), inputs=inputs, resume=config.resume)
    systems = build_systems(config)
    if fingerprint is not None:
        try_systems(config, config.prepared)
    steps = plan(config, RunCache(config, fingerprint, systems), jobs(config), _image_counts(config))
    print("\n".join(lines(config, steps, prepared=fingerprint is not None)), flush=True)
    if config.dry_run:
        return steps
    while fingerprint is None:
        with _after_others(f"to prepare {config.prepared}"):
            prepare(PrepareConfig(data=config.data, prepared=config.prepared, workers=config.workers))
        fingerprint = prepared_fingerprint(config)
        try_systems(config, config.prepared)
    shared = dataclasses.replace(config, devices=1, shared=config.is_shared)
    with _opened(shared, fingerprint) as log:
        cache = RunCache(shared, fingerprint, systems)
        left = sum(cache.finished(job) is None for job in jobs(shared))
        with job_takers(max(1, min(config.devices, left)), partial(take_jobs, shared)):
            (_share_jobs if shared.shared else _run_jobs)(shared, cache, log)
        close = partial(_close, shared, cache, report)
        if config.shared:
            once(config.run / ".report.lock", config.run, done=partial(_is_reported, shared, cache), work=close)
        else:
            close()
    return steps


def take_jobs(config: AblateConfig) -> None:
    """Beside the process that has begun the ablation: do jobs until there are no more. A line for each, all else into the log."""
    fingerprint = prepared_fingerprint(config)
    assert fingerprint is not None
    with _opened(config, fingerprint) as log, contextlib.redirect_stderr(log):
        _share_jobs(config, RunCache(config, fingerprint, build_systems(config)), log)


@contextlib.contextmanager
def _opened(config: AblateConfig, fingerprint: str) -> Iterator[IO[str]]:
    """The run of the ablation; yields the log of this process."""
    name = f"{LOG.stem}.{platform.node()}.{os.getpid()}{LOG.suffix}" if config.shared else str(LOG)
    inputs, plain = {"data set": fingerprint}, to_plain(config)
    with (
        open_run(config.run, command="ablate", config=plain, inputs=inputs, resume=config.resume, shared=config.shared),
        (config.run / name).open("a", encoding="utf-8") as log,
    ):
        yield log


def _close(config: AblateConfig, cache: RunCache, report: Callable[[], object]) -> None:
    if config.shared:  # whoever did the last job may have been killed before it wrote this
        write_manifest(config, cache)
    print("\n".join(["", *table(config, cache), ""]), flush=True)
    report()
    if config.shared:
        write_atomically(config.run / _REPORTED, _found(config, cache).encode())


def _is_reported(config: AblateConfig, cache: RunCache) -> bool:
    """Whether the report was made of what is found by now."""
    mark = config.run / _REPORTED
    return mark.is_file() and read_bytes(mark) == _found(config, cache).encode()


def _found(config: AblateConfig, cache: RunCache) -> str:
    """SHA-256 of what the finished jobs are, with the sanity checks that were made of them: these can be made anew."""
    states = [state for job in jobs(config) if (state := cache.finished(job)) is not None]
    checks = [state.path / SANITY for state in states if (state.path / SANITY).is_file()]
    return canonical_sha256([sorted(state.fingerprint for state in states), sorted(file_sha256(check) for check in checks)])


def prepared_fingerprint(config: AblateConfig) -> str | None:
    """The fingerprint of the prepared data set; None where there is none.

    Raises DataError where it is damaged, and where it was made otherwise than the configuration says. The source itself is not
    looked at, so that an ablation can be continued where only the prepared data are.
    """
    if not config.prepared.exists():
        return None
    manifest = read_manifest(config.prepared)
    wanted = json.loads(json.dumps(to_plain(config.data)))
    made = {"source": manifest["name"], **manifest["recipe"]}
    for key in sorted(wanted.keys() & made.keys()):
        if wanted[key] != made[key]:
            raise DataError(
                f"{config.prepared / MANIFEST}: was made with data.{key}={json.dumps(made[key])}, not {json.dumps(wanted[key])};"
                " choose another prepared=DIR, or delete this one to make it anew"
            )
    fingerprint: str = manifest["fingerprint"]
    return fingerprint


def _image_counts(config: AblateConfig) -> ImageCounts | None:
    """How many images there are, with cross-validation in about every fold; None while nobody knows."""
    counts = _prepared_counts(config)
    if counts is None or config.folds is None:
        return counts
    tested = -(-(counts.train + counts.val + counts.test) // config.folds)
    seen = counts.train + counts.val + counts.test - tested
    validating = round(seen * counts.val / max(1, counts.train + counts.val))
    return counts._replace(train=seen - validating, val=validating, test=tested)


def _prepared_counts(config: AblateConfig) -> ImageCounts | None:
    if config.prepared.exists():
        manifest = read_manifest(config.prepared)
        of_split = {split: sum(of_class.values()) for split, of_class in manifest["counts"].items()}
        alone = manifest["num_samples"] - sum(of_split.values())
        return ImageCounts(**of_split, classes=len(manifest["classes"]), for_segmenters=alone)
    if isinstance(config.data, SyntheticConfig):
        data = config.data
        return ImageCounts(train=data.num_train, val=data.num_val, test=data.num_test, classes=data.num_classes)
    return None


def _run_jobs(config: AblateConfig, cache: RunCache, log: IO[str]) -> None:
    todo, counts = jobs(config), _image_counts(config)
    write_manifest(config, cache)
    for number, job in enumerate(todo, start=1):
        position = f"[{number}/{len(todo)}]"
        with _told(position, job):
            if not cache.finished(job):
                left = [step for step in plan(config, cache, todo[number - 1 :], counts) if step.progress != Progress.REUSED]
                print(f"{position} {job.verb} {job.title}; to the end: {estimate(left)}", file=sys.stderr, flush=True)
                while (state := cache.finished(job)) is None:
                    with _after_others(f"to {job.verb} {job.title}"):
                        _do(cache, _ready(config, cache, job), log)
                        assert cache.finished(job)
                print(f"{position} {job.title}: {job.finding(state.path)}", flush=True)
                write_manifest(config, cache)


def _share_jobs(config: AblateConfig, cache: RunCache, log: IO[str]) -> None:
    """Take jobs that can be done by now and that nobody has; where there is none, a share of one that others are at."""
    todo = jobs(config)
    said: set[Job] = set()
    while any(cache.finished(job) is None for job in todo):
        ready = [job for job in todo if cache.finished(job) is None and all(cache.finished(other) for other in job.needs)]
        taken = (
            _take(config, cache, log, todo, job, join=join, said=said)
            for join in (False, True)
            for job in ready
            if job.divisible or not join
        )
        if not any(taken):
            time.sleep(_LOOK_S)


def _take(config: AblateConfig, cache: RunCache, log: IO[str], todo: list[Job], job: Job, *, join: bool, said: set[Job]) -> bool:
    """Whether a job could be done, alone or beside those who are at it. Of the jobs in ``said`` was told why they have to wait."""
    position = f"[{todo.index(job) + 1}/{len(todo)}]"
    claim: Path | None = None
    with _told(position, job):
        try:
            state = _ready(config, cache, job)
            claim = state.path.with_name(f".{state.path.name}.job")
            claim.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.nullcontext() if join else locked(claim, busy=f"another process is to {job.verb} {job.title}"):
                if cache.finished(job):
                    return True
                print(f"{position} {'help to ' * join}{job.verb} {job.title}", file=sys.stderr, flush=True)
                _do(cache, state, log)
                if not join:
                    print(f"{position} {job.title}: {job.finding(state.path)}", flush=True)
                    write_manifest(config, cache)
            return True
        except OccupiedError as busy:
            if busy.lock != claim and job not in said:  # by a process that shares nothing, and may be at it for long
                said.add(job)
                print(f"{position} {job.title}: waiting: {busy}", file=sys.stderr, flush=True)
    return False


@contextlib.contextmanager
def _told(position: str, job: Job) -> Iterator[None]:
    """Errors and interruptions name the job that they happened in."""
    try:
        with told(f"at {position} {job.title}; what is finished is kept, and the same command continues", instead=True):
            yield
    except UserError as error:
        raise type(error)(f"{position} {job.title}: {error}") from error


@contextlib.contextmanager
def _after_others(what: str) -> Iterator[None]:
    """Where another process is doing the same, wait until it has ended. What it left decides what is still to be done."""
    try:
        yield
    except OccupiedError as busy:
        if busy.lock is None:
            raise
        print(f"waiting for another process {what}", file=sys.stderr, flush=True)
        wait_until_free(busy.lock)


def _ready(config: AblateConfig, cache: RunCache, job: Job) -> JobState:
    cache.datasets.make(job.data)
    state = cache.find(job)
    if state is None:
        raise RunError(f"something that it is made from was taken away from {config.store_path}; the same command makes it anew")
    return state


def _do(cache: RunCache, state: JobState, log: IO[str]) -> None:
    """Do a job. Raises OccupiedError where another process is doing it."""
    began = time.monotonic()
    with contextlib.redirect_stdout(log):
        print(f"--- {state.job.title}", flush=True)
        state.job.run(state)
    log.flush()
    if not state.begun and not (state.materials.ablation.shared and state.job.divisible):  # else it was more work than this
        cache.record_duration(state, time.monotonic() - began)
