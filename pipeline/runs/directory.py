"""The directory of a run: begun once, never overwritten, continued only as what it was begun as."""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import RunError, writing
from pipeline.interrupts import told
from pipeline.runs.files import JsonFile, canonical_sha256
from pipeline.runs.locking import locked, locked_together
from pipeline.runs.provenance import Provenance, provenance

_OF_TRAINERS = ("num_workers", "checkpoint_every", "trackers")
_OF_SANITY = ("sanity", "sanity.objectives", "sanity.sources", "sanity.images")
KEYS_OUTSIDE_FINGERPRINT = frozenset(
    {"run", "resume", "prepared", "segmenter_run", "classifier_run", "shared", "devices", "batch_size", "gallery_images"}
    | {"sanity", "sanity_images", "sanity_epsilon", "store", "dry_run", "workers", "data.root", "data.download"}
    | {"evaluation.batch_size", "evaluation.devices", *(f"evaluation.{key}" for key in _OF_SANITY)}
    | {f"{kind}trainer.{key}" for kind in ("", "segmenter_", "classifier_", "joint_") for key in _OF_TRAINERS}
)
"""Keys that a resumed run may have otherwise: paths (the content behind them is compared) and what changes no result."""

ALGORITHMS: dict[str, int] = {"evaluate": 2, "pool": 2}
"""By command, raised (from 1) with every change of the code by which the same configuration comes to another result: a run of an
older version is neither continued nor reused."""

RUN = "run.json"
JOB_VARIABLE = "FOREGUARD_JOB"
"""In the environment of a job that may begin again: its name, which is then the same."""


@dataclass(frozen=True, kw_only=True)
class RunDescription(JsonFile):
    """``run.json``: what a run was begun as."""

    REMEDY: ClassVar[str] = "begin another run"

    id: str
    """Unique, for trackers that know runs by name."""
    command: str
    algorithm: int
    """That of ``ALGORITHMS`` when it was begun."""
    config: dict[str, Any]
    """The whole configuration."""
    inputs: dict[str, str]
    """Fingerprints of what it reads, by name."""
    provenance: Provenance
    started_at: str
    """ISO 8601, UTC."""
    job: str | None = None
    """The job of SLURM, or of a sweep on Ray, that began it: when that begins again, it continues the run without being told."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run directory."""

    path: Path
    run_id: str
    """Unique, for trackers that know runs by name."""
    resumed: bool
    """True if the run had been begun before."""

    @property
    def state_path(self) -> Path:
        return self.path / "state.pt"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def finished(self) -> bool:
        """True once the result is written, which is the last thing that a run does."""
        return self.result_path.is_file()


@contextmanager
def open_run(
    path: Path, *, command: str, config: Mapping[str, Any], inputs: Mapping[str, str], resume: bool, shared: bool = False
) -> Iterator[Run]:
    """Begin a run, or continue one, and keep other processes out of its directory meanwhile, but for those that share it too.

    ``config`` is JSON-able; ``inputs`` are fingerprints of what the run reads. Both go into ``run.json`` and have to be the same
    when the run is continued. Raises ``RunError``: the directory holds a run and ``resume`` is false, the configuration or an input
    differs, another process is working in it, it cannot be written.
    """
    check_run(path, command=command, config=config, inputs=inputs, resume=resume)
    if not (path / RUN).exists():
        _make_directory(path)
    elif not resume:
        print(f"{path}: this job is run once more, so its run is continued", file=sys.stderr, flush=True)
    lock, busy = path / ".lock", f"{path}: another process is working in this directory"
    with locked_together(lock, busy=f"{busy} without shared=true") if shared else locked(lock, busy=busy):
        with locked(path / ".begin", busy=None):
            begun = (path / RUN).exists()  # by another process meanwhile
            description = read_run(path) if begun else _begin(path, command=command, config=config, inputs=inputs)
        _check_same(path, description, command=command, config=config, inputs=inputs)
        with told(f"with all that is finished kept in {path}; the same command with resume=true continues"):
            yield Run(path=path, run_id=description.id, resumed=begun)


def check_run(path: Path, *, command: str, config: Mapping[str, Any], inputs: Mapping[str, str], resume: bool) -> None:
    """Refuse a directory that a run can be neither begun nor continued in, without touching it. Raises ``RunError``.

    A job that SLURM or Ray has begun again continues its run as if ``resume`` were true.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; expected the directory of a run")
    if not (path / RUN).exists():
        return
    if not (resume or _begins_again(path)):
        raise RunError(f"{path}: holds a run already; continue it with resume=true, or choose another directory")
    _check_same(path, read_run(path), command=command, config=config, inputs=inputs)


def run_fingerprint(*, command: str, config: Mapping[str, Any], inputs: Mapping[str, str], algorithm: int | None = None) -> str:
    """What a run is, wherever it lies: SHA-256 over command, inputs and the keys that have to stay the same when it is continued.

    Two runs with equal fingerprints come to the same result, as far as the versions of torch and of ``ALGORITHMS`` are the same; a
    fingerprint is compared with those of runs that may be older, so it holds the version that ``algorithm`` says, else today's.
    """
    version = ALGORITHMS.get(command, 1) if algorithm is None else algorithm
    decisive = {key: value for key, value in _flat(json.loads(json.dumps(config))).items() if key not in KEYS_OUTSIDE_FINGERPRINT}
    return canonical_sha256({"command": command, "config": decisive, "inputs": dict(inputs), "algorithm": version})


def fingerprint_of(path: Path) -> str | None:
    """The fingerprint of the run in a directory, begun or finished; None where there is none that can be read."""
    try:
        begun = read_run(path)
    except RunError:
        return None
    return run_fingerprint(command=begun.command, config=begun.config, inputs=begun.inputs, algorithm=begun.algorithm)


def read_run(directory: Path) -> RunDescription:
    """What the run of a directory was begun as. Raises ``RunError``."""
    return RunDescription.read(directory / RUN)


def _begins_again(path: Path) -> bool:
    job, restarts = _job(), os.environ.get("SLURM_RESTART_COUNT", "0")
    return restarts.strip("0").isdigit() or (job is not None and read_run(path).job == job)


def _job() -> str | None:
    """What a cluster calls the job that this process is."""
    return os.environ.get(JOB_VARIABLE) or os.environ.get("SLURM_JOB_ID")


def _make_directory(path: Path) -> None:
    foreign = path.is_dir() and any(not entry.name.startswith((".", RUN)) for entry in path.iterdir())
    if foreign and not (path / RUN).exists():  # else another process has begun meanwhile
        raise RunError(f"{path}: is not empty and holds no run; choose another directory")
    with writing(path, cannot="be made"):
        path.mkdir(parents=True, exist_ok=True)


def _begin(path: Path, *, command: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> RunDescription:
    description = RunDescription(
        id=secrets.token_hex(8),
        command=command,
        algorithm=ALGORITHMS.get(command, 1),
        config=dict(config),
        inputs=dict(inputs),
        provenance=provenance(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=_job(),
    )
    description.write(path / RUN)
    return description


def _check_same(path: Path, begun: RunDescription, *, command: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    if begun.command != command:
        raise RunError(f"{path}: is a run of {begun.command}, not of {command}")
    if begun.algorithm != ALGORITHMS.get(command, 1):
        raise RunError(f"{path}: was begun by a version of {command} that comes to other results; begin another run")
    old, new = _flat(begun.config), _flat(json.loads(json.dumps(config)))
    for key in sorted(old.keys() | new.keys()):
        if key not in KEYS_OUTSIDE_FINGERPRINT and old.get(key, "absent") != new.get(key, "absent"):
            was, now = (json.dumps(values[key]) if key in values else "absent" for values in (old, new))
            raise RunError(f"{path}: was begun with {key}={was}, not {now}; continue it as it was, or begin another run")
    for name, digest in inputs.items():
        if begun.inputs.get(name) != digest:
            raise RunError(f"{path}: the {name} is not the one that the run was begun with (its fingerprint differs)")


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
