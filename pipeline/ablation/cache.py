"""Where the pieces of an ablation lie. A finished piece is found by what it was made from: its directory's name means nothing."""

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import (
    ClassifierPiece,
    DecompositionPiece,
    EvaluationPiece,
    Piece,
    SegmenterPiece,
    SilhouettePiece,
    needed,
)
from pipeline.ablation.jobs import Command, command_of, diagnosis_suite
from pipeline.config import to_plain
from pipeline.data.dataset import read_manifest
from pipeline.errors import DataError, RunError
from pipeline.evaluation.evaluate import SANITY, EvaluateConfig, order_of_attacks
from pipeline.runs.checkpoints import weights_digest
from pipeline.runs.directory import fingerprint_of, run_fingerprint
from pipeline.runs.files import canonical_sha256

TIMINGS = "timings.jsonl"
SILHOUETTES = "silhouette-sets"
DECOMPOSITION = {"version": 2}
"""What a decomposition records as its configuration: raised when the code comes to another result."""
_KINDS = {
    SegmenterPiece: ("segmenters", "train-segmenter", "result.json"),
    ClassifierPiece: ("classifiers", "train-classifier", "result.json"),
    SilhouettePiece: ("silhouettes", "train-classifier", "result.json"),
    EvaluationPiece: ("evaluations", "evaluate", "summary.json"),
    DecompositionPiece: ("decompositions", "decompose", "rows.parquet"),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece, with all that it is made from at hand."""

    piece: Piece
    command: Command | None
    """The configuration of the command that does it; None for a decomposition, which is no command."""
    inputs: dict[str, str]
    """Fingerprints of what it reads, as the command itself records them."""
    fingerprint: str
    path: Path
    """Its directory, there or not."""
    begun: bool
    finished: bool


class Store:
    """Trained stages and evaluations, in one directory that experiments may share."""

    def __init__(self, config: AblateConfig, data_fingerprint: str | None) -> None:
        """``data_fingerprint`` is None while there is no prepared data set: then nothing can be found."""
        self._config, self._data = config, data_fingerprint
        self._path = config.store_path
        self._found = {fingerprint: path for path in sorted(self._path.glob("*/*")) if (fingerprint := fingerprint_of(path))}
        self._seconds = _read_timings(self._path / TIMINGS)
        self._finished: dict[Piece, Work] = {}
        self._circumstances = _circumstances(config, data_fingerprint)

    @property
    def silhouettes(self) -> Path:
        """The prepared data set of silhouettes. Raises ValueError while there is no prepared data set."""
        if self._data is None:
            raise ValueError("silhouettes are made from a prepared data set, and there is none")
        return self._path / SILHOUETTES / self._data[:12]

    def look(self, piece: Piece) -> Work | None:
        """What there is of a piece. None while something that it is made from is not finished, for that decides what it is."""
        if self._data is None or piece in self._finished:
            return self._finished.get(piece)
        upstream: dict[Piece, Work] = {}
        for other in needed(piece):
            work = self.look(other)
            if work is None or not work.finished:
                return None
            upstream[other] = work
        inputs = self._inputs(piece, upstream)
        if inputs is None:
            return None
        kind, name, result = _KINDS[type(piece)]
        unplaced = self._command(piece, upstream, self._path)
        recorded = DECOMPOSITION if unplaced is None else to_plain(unplaced)
        fingerprint = run_fingerprint(command=name, config=recorded, inputs=inputs)
        path = self._found.get(fingerprint) or self._path / kind / f"{piece.slug}-{fingerprint[:10]}"
        command = self._command(piece, upstream, path)
        finished = (path / result).is_file()
        if isinstance(command, EvaluateConfig) and command.sanity:
            finished = finished and _checked_images(path) >= command.sanity_images
        work = Work(
            piece=piece,
            command=command,
            inputs=inputs,
            fingerprint=fingerprint,
            path=path,
            begun=(path / "run.json").is_file(),
            finished=finished,
        )
        if finished:
            self._finished[piece] = work
        return work

    def note(self, work: Work, seconds: float) -> None:
        """Remember how long a piece took from its beginning to its end, for later estimates and the report. Raises RunError."""
        line = json.dumps({"fingerprint": work.fingerprint, "cost": self._cost(work.piece), "seconds": round(seconds, 2)})
        try:
            with (self._path / TIMINGS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(f"{self._path / TIMINGS}: cannot be written: {error.strerror or error}") from error
        self._seconds[self._cost(work.piece)][work.fingerprint] = seconds

    def estimate(self, piece: Piece) -> float | None:
        """Seconds that pieces of the same kind took on this machine, at the same settings: their median. None: none did."""
        measured = self._seconds.get(self._cost(piece))
        return statistics.median(measured.values()) if measured else None

    def seconds_of(self, work: Work) -> float | None:
        """Seconds that this piece took, where that was measured."""
        return self._seconds.get(self._cost(work.piece), {}).get(work.fingerprint)

    def _inputs(self, piece: Piece, upstream: Mapping[Piece, Work]) -> dict[str, str] | None:
        assert self._data is not None
        inputs = {"data set": self._data}
        match piece:
            case SilhouettePiece():
                try:
                    inputs["data set"] = read_manifest(self.silhouettes)["fingerprint"]
                except DataError:
                    return None
            case ClassifierPiece(segmenter=segmenter) if segmenter is not None:
                inputs["segmenter"] = weights_digest(upstream[segmenter].path)
            case EvaluationPiece(classifier=classifier, segmenter=segmenter):
                inputs["classifier"] = weights_digest(upstream[classifier].path)
                if segmenter is not None:
                    inputs["segmenter"] = weights_digest(upstream[segmenter].path)
                suite = self._config.attack if piece.diagnosis is None else diagnosis_suite(self._config, piece.diagnosis)
                inputs |= order_of_attacks(suite)
            case DecompositionPiece():
                inputs |= {other.title: work.fingerprint for other, work in upstream.items()}
        return inputs

    def _command(self, piece: Piece, upstream: Mapping[Piece, Work], run: Path) -> Command | None:
        silhouettes = self.silhouettes if isinstance(piece, SilhouettePiece) else None
        return command_of(self._config, piece, run, {other: work.path for other, work in upstream.items()}, silhouettes=silhouettes)

    def _cost(self, piece: Piece) -> str:
        """Equal for pieces that should take equally long on this machine."""
        match piece:
            case SegmenterPiece(objective=objective):
                work: list[object] = ["segmenter", objective]
            case ClassifierPiece(objective=objective, segmenter=segmenter):
                work = ["classifier", objective, segmenter is not None]
            case EvaluationPiece(classifier=classifier, masks=masks, role=role, diagnosis=diagnosis):
                work = ["evaluation", classifier.objective, masks.source.is_learned, role, diagnosis and diagnosis.value]
            case _:
                work = [type(piece).__name__]
        return canonical_sha256({**self._circumstances, "work": work})[:16]


def _checked_images(path: Path) -> int:
    """How many images the sanity checks of an evaluation were made on; 0 where there were none."""
    try:
        return int(json.loads((path / SANITY).read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _circumstances(config: AblateConfig, data_fingerprint: str | None) -> dict[str, object]:
    """What decides how long a kind of work takes: the machine, the data, and the settings that all pieces share."""
    plain = to_plain(config)
    stages = {key: plain[key] for key in ("segmenter", "classifier", "augment", "adversarial", "trades")}
    trainers = {key: plain[key] for key in ("segmenter_trainer", "classifier_trainer")}
    settings = {"data set": data_fingerprint, **stages, **trainers, "attack": plain["attack"], "evaluation": plain["evaluation"]}
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
        except (ValueError, KeyError, TypeError):
            continue
    return seconds
