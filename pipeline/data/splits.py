"""Drawing splits and folds by group, so that near-duplicates never stand on both sides."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

from pipeline.errors import ConfigError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SEGMENTER: Literal["segmenter"] = "segmenter"
"""The split of samples that train segmenters and nothing else."""
Part = TypeVar("Part", bound=Hashable)


def drawn_shares(val: float, test: float) -> dict[Split, float]:
    """What is drawn for each split. Raises ConfigError where nothing is left to train on."""
    if val + test >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must be below 1: the rest is for training")
    return {"train": 1 - val - test, "val": val, "test": test}


def assign_splits(groups: Sequence[str], labels: Sequence[int], fractions: Mapping[Split, float], *, seed: int) -> dict[str, Split]:
    """Give every group one split, so that each class is shared out by ``fractions`` as nearly as whole groups allow.

    ``groups`` and ``labels`` run over samples; a group may hold several labels. The result does not depend on the order of the
    samples. Where a group holds one class, every class with at least as many groups as there are splits with a positive fraction
    gets a group in each of them, and a class with fewer fills train first, then val, then test. Greedy iterative stratification,
    rarest class first: Sechidis, Tsoumakas, Vlahavas 2011, "On the stratification of multi-label data".
    Raises ValueError if the fractions do not add up to 1.
    """
    if any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-9:
        raise ValueError(f"split fractions {dict(fractions)} are not shares that add up to 1")
    wanted = {split: fractions[split] for split in SPLITS if fractions.get(split, 0.0) > 0.0}
    return _share_out(groups, labels, wanted, seed=seed)


def assign_folds(groups: Sequence[str], labels: Sequence[int], num_folds: int, *, seed: int) -> dict[str, int]:
    """Give every group one fold, 0 to ``num_folds`` - 1, so that each class is shared out evenly as far as whole groups allow.

    By the rules of ``assign_splits``. Raises ValueError for fewer than two folds.
    """
    if num_folds < 2:
        raise ValueError(f"{num_folds} folds: at least 2 are needed")
    return _share_out(groups, labels, dict.fromkeys(range(num_folds), 1 / num_folds), seed=seed)


def _share_out(groups: Sequence[str], labels: Sequence[int], shares: Mapping[Part, float], *, seed: int) -> dict[str, Part]:
    wanted = list(shares)
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for group, label in zip(groups, labels, strict=True):
        counts[group][label] += 1
    totals = Counter(labels)
    need = {part: {label: share * total for label, total in totals.items()} for part, share in shares.items()}
    held: dict[tuple[Part, int], int] = defaultdict(int)
    assigned: dict[str, Part] = {}
    for label in sorted(totals, key=lambda label: (totals[label], label)):
        waiting = sorted((g for g in counts if label in counts[g] and g not in assigned), key=lambda g: _rank(g, seed))
        for position, group in enumerate(waiting):
            bare = [part for part in wanted if held[part, label] == 0]
            # With just enough groups left for the parts that have none of this class, those come first.
            open_to = bare if bare and len(waiting) - position <= len(bare) else wanted
            part = open_to[0] if open_to is bare else max(open_to, key=lambda part: need[part][label])
            assigned[group] = part
            for other, count in counts[group].items():
                need[part][other] -= count
                held[part, other] += 1
    return assigned


def _rank(group: str, seed: int) -> bytes:
    """A pseudo-random order of groups that depends on the seed and the group's name alone."""
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()
