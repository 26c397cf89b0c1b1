"""What every source hands to the writer of prepared data sets: samples, rejects, and the plan that lists them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from pipeline.data.rules import REMEDIES
from pipeline.data.splits import Split

NO_CLASS = -1
"""The label of a sample that trains segmenters and nothing else: a segmenter knows no classes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its foreground mask and label, ready to be stored."""

    sample_id: str
    """Unique in the data set and stable: it does not depend on order, machine or path of the root."""
    source_file: str
    """The file the sample was cut from, relative to the source's root; empty for generated samples."""
    group: str
    """Samples of one group (a track, an image) are near-duplicates and never fall into two splits."""
    label: int
    """Index into ``Plan.classes``, or NO_CLASS."""
    split: Split | Literal["segmenter"]
    """The official split, or the one drawn for the group by ``splits.assign_splits``; SEGMENTER where there is no class."""
    box: tuple[float, float, float, float]
    """The square of the source file that the sample shows: x0, y0, x1, y1 in pixels of the file; may reach beyond it."""
    mask_recipe: str
    """How the mask was made, in one word or two: ``polygon``, ``rle``, ``circle-refined``, ``exact`` ..."""
    image: UInt8[np.ndarray, "side side 3"]
    """RGB, 0 to 255."""
    mask: UInt8[np.ndarray, "side side"]
    """Foreground share of each pixel, 0 to 255 (area-interpolated: an edge pixel may be partly foreground)."""
    notes: frozenset[str] = frozenset()
    """What is to be counted over the set, by the names of ``rules.NOTES``."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One object that was not taken, and why."""

    source_file: str
    """Relative to the source's root."""
    item: str
    """What in the file was rejected: the sample id it would have had, or the file's name."""
    rule: str
    """The rule by name, one of ``rules.REMEDIES``."""
    detail: str
    """One line with the figures that decided."""
    label: int | None = None
    """The class that it would have had, where that is known."""


class RejectCounts:
    """How many there were of each rule and class, with the first of them."""

    def __init__(self, rejects: Iterable[Reject] = ()) -> None:
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._first: dict[tuple[int | None, str], Reject] = {}
        for reject in rejects:
            self.add(reject)

    def add(self, reject: Reject) -> None:
        assert reject.rule in REMEDIES, reject.rule
        self._counts[reject.label, reject.rule] += 1
        self._first.setdefault((reject.label, reject.rule), reject)

    def by_rule(self) -> dict[str, int]:
        """How many were rejected, by rule in alphabetical order."""
        counts: Counter[str] = Counter()
        for (_, rule), count in self._counts.items():
            counts[rule] += count
        return dict(sorted(counts.items()))

    def why(self, label: int | None = None) -> str:
        """The rule that took most of a class, or of all, the others, the first reject and what to do about it."""
        told = {key: count for key, count in self._counts.items() if key[0] == label} or self._counts
        if not told:
            return "the source holds none"
        counts: Counter[str] = Counter()
        for (_, rule), count in told.items():
            counts[rule] += count
        (rule, count), *others = counts.most_common()
        first = next(self._first[key] for key in told if key[1] == rule)
        also = f" (and {', '.join(f'{number} {name}' for name, number in others)})" if others else ""
        return f"{count} {rule}{also}; the first is {first.item}: {first.detail}; {REMEDIES[rule]}"


def recipe_of(config: Any, **about: Any) -> dict[str, Any]:
    """The ``recipe`` of a plan: what is said ``about`` it and the choices of its configuration, but for where the files lie."""
    return {**about, **{key: value for key, value in asdict(config).items() if key not in ("root", "download")}}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a source found before any image was decoded. Each source module has ``plan(config) -> Plan``."""

    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    recipe: Mapping[str, Any]
    """JSON-able: every choice that decides the result, with a ``version`` that is raised when the code's result changes."""
    files: Sequence[Path]
    """Every source file that decides the result; their relative paths, sizes and times tell whether the source changed."""
    items: Sequence[Any]
    """Picklable work items in a fixed order; the stored order follows it, whatever the number of processes."""
    load: Callable[[Any], list[Sample | Reject]]
    """Picklable and pure: turns one item into samples and rejects, in a worker process. Bad input becomes a Reject."""
    rejects: Sequence[Reject] = ()
    """What was rejected while listing."""
    without_sample: tuple[int, ...] = ()
    """Classes that have no sample, as the listing already shows: nothing is decoded then."""
    for_training: bool = False
    """Some of it was to be trained on, by configuration, table or folders: where nothing of that is left, the rest is no set for
    testing."""
