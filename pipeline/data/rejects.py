"""The log of what was not taken, and the sentence that says why nothing was left."""

import csv
from collections import Counter
from pathlib import Path

from pipeline.data.rules import REMEDIES
from pipeline.data.sample import Reject

REJECTS = "rejects.csv"


class RejectLog:
    """Writes each reject at once, and remembers how many there were of each rule and class, with the first of them."""

    def __init__(self, directory: Path) -> None:
        self._stream = (directory / REJECTS).open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(["rule", "source_file", "item", "detail"])
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._first: dict[tuple[int | None, str], Reject] = {}

    def add(self, reject: Reject) -> None:
        assert reject.rule in REMEDIES, reject.rule
        self._writer.writerow([reject.rule, reject.source_file, reject.item, reject.detail])
        self._counts[reject.label, reject.rule] += 1
        self._first.setdefault((reject.label, reject.rule), reject)

    def close(self) -> None:
        self._stream.close()

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
