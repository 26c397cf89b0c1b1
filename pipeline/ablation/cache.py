"""Where runs and data of an ablation lie. A finished run is found by what it was made from: its directory's name means nothing."""

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import DataView, Job, JobState, Materials
from pipeline.config import to_plain
from pipeline.data import silhouettes
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared, read_manifest
from pipeline.data.folds import write_fold
from pipeline.errors import DataError, writing
from pipeline.runs.directory import fingerprint_of, run_fingerprint
from pipeline.runs.files import canonical_sha256

TIMINGS = "timings.jsonl"


class DataSets:
    """Where the data sets of an ablation lie. What is made of the prepared one lies in the store, known by its fingerprint."""

    def __init__(self, config: AblateConfig, fingerprint: str) -> None:
        self._config, self._fingerprint = config, fingerprint

    def path(self, view: DataView) -> Path:
        """The directory of a data set, there or not."""
        if view == DataView():
            return self._config.prepared
        fold = view.fold.slug if view.fold else ""
        return self._config.store_path / ("silhouette-sets" if view.silhouettes else "folds") / f"{self._fingerprint[:12]}{fold}"

    def fingerprint(self, view: DataView) -> str | None:
        """None where it is not there yet, or damaged."""
        if view == DataView():
            return self._fingerprint
        try:
            return cast(str, read_manifest(self.path(view))["fingerprint"])
        except DataError:
            return None

    def make(self, view: DataView) -> None:
        """Make a data set where there is none. Raises DataError; OccupiedError where another process is at it."""
        path = self.path(view)
        if path.exists():
            return
        if view.silhouettes:
            self.make(view._replace(silhouettes=False))
            dataset = open_prepared(self.path(view._replace(silhouettes=False)))
            plan = silhouettes.plan(dataset)
            write_prepared(plan, path, name="silhouettes", image_size=dataset.image_size, root=None, workers=0)
        elif view.fold is not None:
            write_fold(open_prepared(self._config.prepared), path, number=view.fold.number, folds=view.fold.of)


class RunCache:
    """Trained stages and evaluations, in one directory that experiments may share."""

    def __init__(self, config: AblateConfig, data_fingerprint: str | None, systems: Mapping[str, str]) -> None:
        """``data_fingerprint`` is None while there is no prepared data set: then nothing can be found. ``systems`` are the digests
        of the user's own ones (``own_job.build_systems``)."""
        self._config = config
        self._systems = systems
        self._datasets = None if data_fingerprint is None else DataSets(config, data_fingerprint)
        self._path = config.store_path
        self._paths = {fingerprint: path for path in sorted(self._path.glob("*/*")) if (fingerprint := fingerprint_of(path))}
        self._seconds = _read_timings(self._path / TIMINGS)
        self._finished: dict[Job, JobState] = {}
        self._circumstances = _circumstances(config, data_fingerprint)

    @property
    def datasets(self) -> DataSets:
        """The data sets of the ablation. Raises ValueError while there is no prepared data set."""
        if self._datasets is None:
            raise ValueError("there is no prepared data set yet")
        return self._datasets

    def find(self, job: Job) -> JobState | None:
        """What there is of a job. None while something that it is made from is not there, for that decides what it is."""
        if self._datasets is None or job in self._finished:
            return self._finished.get(job)
        materials = self._materials(job, self._datasets)
        if materials is None:
            return None
        inputs = job.inputs(materials)
        anywhere = job.config(materials, self._path)  # wherever it will lie, which changes no fingerprint
        plain = anywhere if isinstance(anywhere, dict) else to_plain(anywhere)
        fingerprint = run_fingerprint(command=job.command, config=plain, inputs=inputs)
        path = self._paths.get(fingerprint) or self._path / f"{job.kind}s" / f"{job.slug}-{fingerprint[:10]}"
        config = job.config(materials, path)
        state = JobState(
            job=job,
            config=config,
            materials=materials,
            inputs=inputs,
            fingerprint=fingerprint,
            path=path,
            begun=(path / "run.json").is_file(),
            finished=job.is_finished(path, config),
        )
        if state.finished:
            self._finished[job] = state
        return state

    def finished(self, job: Job) -> JobState | None:
        """The job, if it is finished."""
        state = self.find(job)
        return state if state is not None and state.finished else None

    def record_duration(self, state: JobState, seconds: float) -> None:
        """Remember how long a job took from its beginning to its end, for later plans and the report. Raises RunError."""
        cost = self._cost(state.job)
        line = json.dumps({"fingerprint": state.fingerprint, "cost": cost, "seconds": round(seconds, 2)})
        path = self._path / TIMINGS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._seconds[cost][state.fingerprint] = seconds

    def usual_duration(self, job: Job) -> float | None:
        """Seconds that such jobs took on this machine, at the same settings: their median. None: none did."""
        measured = self._seconds.get(self._cost(job))
        return statistics.median(measured.values()) if measured else None

    def duration(self, state: JobState) -> float | None:
        """Seconds that this job took, where that was measured."""
        return self._seconds.get(self._cost(state.job), {}).get(state.fingerprint)

    def _materials(self, job: Job, datasets: DataSets) -> Materials | None:
        finished: dict[Job, JobState] = {}
        for other in job.needs:
            if (state := self.finished(other)) is None:
                return None
            finished[other] = state
        fingerprint = datasets.fingerprint(job.data)
        if fingerprint is None:
            return None
        prepared = datasets.path(job.data)
        return Materials(
            ablation=self._config, prepared=prepared, data_fingerprint=fingerprint, finished=finished, systems=self._systems
        )

    def _cost(self, job: Job) -> str:
        """Equal for jobs that should take equally long on this machine."""
        return canonical_sha256({**self._circumstances, "job": [job.kind, *job.alike]})[:16]


def _circumstances(config: AblateConfig, data_fingerprint: str | None) -> dict[str, object]:
    """What decides how long a kind of job takes: the machine, the data, and the settings that all jobs share."""
    plain, trainers = to_plain(config), ("segmenter_trainer", "classifier_trainer", "joint_trainer")
    shared = ("segmenter", "classifier", "augment", "adversarial", "trades", *trainers, "attack", "evaluation")
    settings = {"data set": data_fingerprint, **{key: plain[key] for key in shared}}
    entries = (*plain["segmenter_objectives"], *plain["classifier_objectives"])
    if named := [entry for entry in entries if not isinstance(entry, str)]:
        settings["objectives"] = named
    return {"machine": [platform.node(), os.cpu_count()], "settings": settings}


def _read_timings(path: Path) -> defaultdict[str, dict[str, float]]:
    """Seconds by cost and fingerprint. A line that is cut off or foreign costs an estimate, no more."""
    seconds: defaultdict[str, dict[str, float]] = defaultdict(dict)
    if not path.is_file():
        return seconds
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            seconds[str(entry["cost"])][str(entry["fingerprint"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return seconds
