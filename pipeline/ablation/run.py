"""Run the grid of an ablation: train what is missing, reuse what is there, attack, and write down what belongs together.

``ablation.json`` in the directory of the ablation lists the arms that are finished. It is written anew after each of them, so that
an ablation can be reported before it has come to its end.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

from pipeline.ablation.cache import Store, Work
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.decomposition import explain
from pipeline.ablation.digest import line_of, table
from pipeline.ablation.forecast import Forecast
from pipeline.ablation.grid import Piece, SilhouettePiece, pieces
from pipeline.ablation.manifest import write_manifest
from pipeline.ablation.plan import State, lines, outlook, remaining, verb
from pipeline.config import to_plain
from pipeline.data import silhouettes as silhouette
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import MANIFEST, open_prepared, read_manifest
from pipeline.data.prepare import PrepareConfig, prepare
from pipeline.data.synthetic.source import SyntheticConfig
from pipeline.errors import DataError, OccupiedError, RunError, UserError
from pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from pipeline.runs.directory import check_run, open_run
from pipeline.runs.locking import wait_until_free
from pipeline.training.commands import TrainClassifierConfig, TrainSegmenterConfig, train_classifier, train_segmenter

LOG = "ablation.log"
"""What the commands of the pieces print."""


def run_ablation(config: AblateConfig) -> bool:
    """Bring an ablation to its end, or continue it; False for a dry run, which says what would be done and changes nothing.

    Raises UserError of the kind that fits, with the piece where it happened, and KeyboardInterrupt with a message for the user.
    """
    fingerprint = prepared_fingerprint(config)
    inputs = {} if fingerprint is None else {"data set": fingerprint}
    check_run(config.run, command="ablate", config=to_plain(config), inputs=inputs, resume=config.resume)
    guess = _guess(config)
    plan = outlook(Store(config, fingerprint), pieces(config), guess)
    print("\n".join(lines(config, plan, prepared=fingerprint is not None)), flush=True)
    if config.dry_run:
        return False
    while fingerprint is None:
        with _after_others(f"to prepare {config.prepared}"):
            prepare(PrepareConfig(data=config.data, prepared=config.prepared, workers=config.workers))
        fingerprint = prepared_fingerprint(config)
    inputs = {"data set": fingerprint}
    with (
        open_run(config.run, command="ablate", config=to_plain(config), inputs=inputs, resume=config.resume),
        (config.run / LOG).open("a", encoding="utf-8") as log,
    ):
        store = Store(config, fingerprint)
        _run_pieces(config, store, log, guess or _guess(config))
        print("\n".join(["", *table(config, store), ""]), flush=True)
    return True


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


def _guess(config: AblateConfig) -> Callable[[Piece], float] | None:
    """Seconds of a piece by counting passes; None while nobody knows how many images there are."""
    if config.prepared.exists():
        counts = {split: sum(of_class.values()) for split, of_class in read_manifest(config.prepared)["counts"].items()}
        return Forecast(config, counts).seconds
    if isinstance(config.data, SyntheticConfig):
        made = {"train": config.data.num_train, "val": config.data.num_val, "test": config.data.num_test}
        return Forecast(config, made).seconds
    return None


def _run_pieces(config: AblateConfig, store: Store, log: IO[str], guess: Callable[[Piece], float] | None) -> None:
    todo = pieces(config)
    write_manifest(config, store)
    for number, piece in enumerate(todo, start=1):
        position = f"[{number}/{len(todo)}]"
        try:
            if not _finished(store, piece):
                ahead = [step for step in outlook(store, todo[number - 1 :], guess) if step.state is not State.REUSED]
                print(f"{position} {verb(piece)} {piece.title}; to the end: {remaining(ahead)}", file=sys.stderr, flush=True)
                while (work := _finished(store, piece)) is None:
                    with _after_others(f"to {verb(piece)} {piece.title}"):
                        _do(config, store, _ready(config, store, piece), log)
                        assert _finished(store, piece)
                print(f"{position} {piece.title}: {line_of(work)}", flush=True)
                write_manifest(config, store)
        except UserError as error:
            raise type(error)(f"{position} {piece.title}: {error}") from error
        except KeyboardInterrupt as interrupt:
            message = f"interrupted at {position} {piece.title}; what is finished is kept, and the same command continues"
            raise KeyboardInterrupt(message) from interrupt


@contextlib.contextmanager
def _after_others(what: str) -> Iterator[None]:
    """Where another process is doing the same, wait until it has ended. What it left decides what is still to be done."""
    try:
        yield
    except OccupiedError as busy:
        print(f"waiting for another process {what}", file=sys.stderr, flush=True)
        wait_until_free(busy.lock)


def _finished(store: Store, piece: Piece) -> Work | None:
    work = store.look(piece)
    return work if work is not None and work.finished else None


def _ready(config: AblateConfig, store: Store, piece: Piece) -> Work:
    if isinstance(piece, SilhouettePiece) and not store.silhouettes.exists():
        dataset = open_prepared(config.prepared)
        plan = silhouette.plan(dataset)
        write_prepared(plan, store.silhouettes, name="silhouettes", image_size=dataset.image_size, root=None, workers=0)
    work = store.look(piece)
    if work is None:
        raise RunError(f"something that it is made from was taken away from {config.store_path}; the same command makes it anew")
    return work


def _do(config: AblateConfig, store: Store, work: Work, log: IO[str]) -> None:
    """Do a piece of work. Raises OccupiedError where another process is doing it."""
    began = time.monotonic()
    with contextlib.redirect_stdout(log):
        print(f"--- {work.piece.title}", flush=True)
        match work.command:
            case TrainSegmenterConfig():
                train_segmenter(work.command)
            case TrainClassifierConfig():
                train_classifier(work.command)
            case EvaluateConfig():
                evaluate(work.command)
            case None:
                explain(config, store, work)
    log.flush()
    if not work.begun:  # else it took longer than this
        store.note(work, time.monotonic() - began)
