"""Every file that commands leave behind, damaged: who reads it says so in one line, or comes to what it would have."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import pytest

from pipeline.cli.main import main
from pipeline.evaluation.records import read_records

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TINY = [
    *run_path(str(Path(__file__).with_name("tiny.py")))["WORDS"],
    "masks=[{train: learned, test: learned}]",
    "classifier_objectives=[natural]",
    "segmenter_trainer.epochs=1",
    "classifier_trainer.epochs=1",
    "attack.attacks.pgd.num_steps=1",
    "attack.attacks.apgd-targeted.num_steps=1",
    "evaluation.sanity.images=4",
    "degradation=null",
    "decomposition=null",
]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "flipped": flipped,
    "nested": lambda _: b"[" * 200_000,
    "of another type": lambda _: b'["a", "list"]',
    "empty": lambda _: b"",
    "a directory": None,
}


class Made(NamedTuple):
    """What one small ablation leaves behind."""

    root: Path

    @property
    def ablation(self) -> list[str]:
        return ["ablate", f"prepared={self.root / 'prepared'}", f"store={self.root / 'store'}", *TINY]

    def run_of(self, kind: str, named: str = "") -> Path:
        return next(path for path in sorted((self.root / "store" / kind).iterdir()) if named in path.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("made"))
    assert main([*made.ablation, f"run={made.root / 'run'}"]) == 0
    return made


def attacked(made: Made, out: Path, **changed: Path) -> list[str]:
    """An evaluation that reads a data set, a classifier and its segmenter."""
    runs = {"prepared": made.root / "prepared", "classifier_run": made.run_of("classifiers", "learned")} | changed
    suite = ["attack=fast", "attack.threat.epsilons=[8/255]"]
    quick = ["max_images=4", "gallery_images=0", "sanity=false", "accelerator=cpu"]
    return ["evaluate", *(f"{key}={path}" for key, path in runs.items()), f"run={out}", *suite, *quick]


def records(run: Path) -> Any:
    return read_records(run).drop("seconds").sort(["sample_id", "attack", "epsilon"]).to_dicts()


def pages(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Reader(NamedTuple):
    """A call that reads a directory: what is read, what is said, and what it comes to."""

    directory: Callable[[Made], Path]
    words: Callable[[Made, Path, Path], list[str]]
    """Of what was made, the copy of the directory to read, and a new directory for what comes out."""
    outcome: Callable[[Path, Path], Any]
    """Of the copy and of what came out."""


READERS = {
    "evaluate, of a data set": Reader(
        lambda made: made.root / "prepared", lambda made, copy, out: attacked(made, out, prepared=copy), lambda _, out: records(out)
    ),
    "evaluate, of a classifier": Reader(
        lambda made: made.run_of("classifiers", "learned"),
        lambda made, copy, out: attacked(made, out, classifier_run=copy),
        lambda _, out: records(out),
    ),
    "evaluate, of a segmenter": Reader(
        lambda made: made.run_of("segmenters"),
        lambda made, copy, out: attacked(made, out, segmenter_run=copy),
        lambda _, out: records(out),
    ),
    "report, of an evaluation": Reader(
        lambda made: made.run_of("evaluations"),
        lambda _, copy, out: ["report", f"run={copy}", f"out={out}"],
        lambda _, out: pages(out),
    ),
    "report, of an ablation": Reader(
        lambda made: made.root / "run", lambda _, copy, out: ["report", f"run={copy}", f"out={out}"], lambda _, out: pages(out)
    ),
    "ablate, of an ablation": Reader(
        lambda made: made.root / "run",
        lambda made, copy, _: [*made.ablation, f"run={copy}"],
        lambda copy, _: sorted(path.name for path in copy.iterdir()),
    ),
}


def copies(original: Path, copy: Path) -> Iterator[str]:
    """What was damaged and how, while a copy of the directory is so: every file and every damage, but not all pairs (minutes)."""
    files = [path.relative_to(original) for path in original.rglob("*") if path.is_file() and path.stat().st_size]
    names = sorted(name for name in files if name.parts[0] != "report")  # pages are made for people, and nothing reads them
    assert len(names) > 1
    kinds = list(DAMAGES)
    random.Random(str(original.name)).shuffle(kinds)
    chosen = {*zip(names, itertools.cycle(kinds)), *zip(itertools.cycle(names), kinds)}
    for name, damage in sorted(chosen):
        change = DAMAGES[damage]
        shutil.copytree(original, copy)
        if change is None:
            (copy / name).unlink()
            (copy / name).mkdir()
        else:
            (copy / name).write_bytes(change((copy / name).read_bytes()))
        yield f"{name} {damage}"
        shutil.rmtree(copy)


@pytest.mark.parametrize("reader", READERS)
def test_damage_is_one_line_or_makes_no_difference(made: Made, tmp_path: Path, capsys, reader: str) -> None:
    directory, words, outcome = READERS[reader]
    copy, out = directory(made).parent / "copy", tmp_path / "out"  # beside it, for a run knows others by their path from it
    shutil.copytree(directory(made), copy)
    assert main(words(made, copy, out)) == 0, capsys.readouterr().err
    expected = outcome(copy, out)
    shutil.rmtree(copy)
    wrong = []
    for what in copies(directory(made), copy):
        shutil.rmtree(out, ignore_errors=True)
        capsys.readouterr()
        try:
            code = main(words(made, copy, out))
        except Exception as error:
            wrong.append(f"{what}: a traceback, {type(error).__name__}: {error}")
            continue
        said = capsys.readouterr().err.splitlines()
        if code == 0 and outcome(copy, out) != expected:
            wrong.append(f"{what}: accepted")
        elif code == 2 and not (said[-1].startswith("foreguard: ") and str(copy) in said[-1]):
            wrong.append(f"{what}: the line does not say where: {said[-1]}")
        elif code not in (0, 2):
            wrong.append(f"{what}: exit code {code}")
    assert wrong == []
