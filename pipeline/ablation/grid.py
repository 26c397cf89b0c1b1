"""The grid of an ablation: its arms, and the pieces of work they need, each once and in an order that finishes arm by arm."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.ablation.config import AblateConfig, MaskPair, Objective
from pipeline.attacks.two_stage import GradientPath
from pipeline.masks import MaskConfig, MaskSource

_ALONG = {GradientPath.BOTH: "both paths", GradientPath.PIXELS: "the pixel path only", GradientPath.MASK: "the mask path only"}
Role = Literal["main", "degradation", "diagnostic"]
_MAIN = (MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.RANDOM)
_DIAGNOSES = (GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK)


@dataclass(frozen=True, kw_only=True)
class SegmenterPiece:
    """Train a segmenter."""

    objective: Objective
    seed: int

    @property
    def title(self) -> str:
        """In words."""
        return f"segmenter, {self.objective}, seed {self.seed}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        return f"{self.objective}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class ClassifierPiece:
    """Train a classifier behind a mask source."""

    objective: Objective
    seed: int
    masks: MaskConfig
    segmenter: SegmenterPiece | None
    """Of the masks in training."""

    @property
    def title(self) -> str:
        """In words."""
        behind = f" ({self.segmenter.objective} segmenter)" if self.segmenter else ""
        return f"classifier, {self.objective}, masks {self.masks.source.value}{behind}, seed {self.seed}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        behind = f"-{self.segmenter.objective}" if self.segmenter else ""
        return f"{self.objective}-{self.masks.source.value}{behind}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class SilhouettePiece:
    """Train a classifier that sees the oracle mask in place of the image."""

    seed: int

    @property
    def title(self) -> str:
        """In words."""
        return f"classifier of silhouettes, seed {self.seed}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        return f"silhouettes-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class EvaluationPiece:
    """Attack a system: an arm of the grid, or the same with one attack of the decomposition in place of the suite."""

    classifier: ClassifierPiece
    masks: MaskConfig
    segmenter: SegmenterPiece | None
    """Of the masks in testing."""
    role: Role = field(compare=False)
    diagnosis: GradientPath | None = None
    """The gradient that the one attack of the decomposition follows; None: the whole suite."""

    @property
    def seed(self) -> int:
        """Of training and attack."""
        return self.classifier.seed

    @property
    def title(self) -> str:
        """In words, and another one for every arm: the arm's name."""
        diagnosis = f", one attack along {_ALONG[self.diagnosis]}" if self.diagnosis else ""
        return f"{self.classifier.objective} classifier, masks {self._masks(' to ')}, seed {self.seed}{diagnosis}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        diagnosis = f"-along-{self.diagnosis}" if self.diagnosis else ""
        return f"{self.classifier.objective}-{self._masks('-')}-seed{self.seed}{diagnosis}".replace(" ", "-")

    def _masks(self, to: str) -> str:
        source = self.masks.source
        pixels = {MaskSource.SHIFTED: self.masks.shift, MaskSource.ERODED: self.masks.radius, MaskSource.DILATED: self.masks.radius}
        size = f" {pixels[source]} px" if source in pixels else ""
        behind = f" {self.segmenter.objective} segmenter" if self.segmenter else ""
        trained = f" {self.classifier.segmenter.objective} segmenter" if self.classifier.segmenter and not self.segmenter else ""
        return f"{self.classifier.masks.source.value}{trained}{to}{source.value}{size}{behind}"


@dataclass(frozen=True, kw_only=True)
class DecompositionPiece:
    """Score an arm's strongest adversarial images again, with one path of them at a time."""

    arm: EvaluationPiece
    oracle: EvaluationPiece
    """The arm that it is compared with."""
    diagnoses: tuple[EvaluationPiece, ...]
    """The same system under one attack, whose gradient follows both paths, or one of them."""

    @property
    def title(self) -> str:
        """In words."""
        return f"decomposition of {self.arm.title}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        return self.arm.slug


Piece = SegmenterPiece | ClassifierPiece | SilhouettePiece | EvaluationPiece | DecompositionPiece


def arms(config: AblateConfig) -> list[EvaluationPiece]:
    """Every system that is attacked with the whole suite: seed by seed, the main ones of a seed first."""
    found: list[EvaluationPiece] = []
    for seed in config.seeds:
        found += (arm for arm in _of_pairs(config, seed) if arm.role == "main")
        found += (arm for arm in _of_pairs(config, seed) if arm.role == "diagnostic")
        found += _degraded(config, seed)
    return list(dict.fromkeys(found))


def decompositions(config: AblateConfig) -> list[DecompositionPiece]:
    """One for every main arm that is tested with learned masks and has an arm with the oracle to be compared with."""
    if config.decomposition is None:
        return []
    main = [arm for arm in arms(config) if arm.role == "main"]
    pieces = []
    for arm in main:
        oracle = _compared_with(arm, main)
        wanted = arm.masks.source.is_learned and arm.classifier.objective in config.decomposition.objectives
        if wanted and oracle is not None:
            diagnoses = tuple(dataclasses.replace(arm, role="diagnostic", diagnosis=path) for path in _DIAGNOSES)
            pieces.append(DecompositionPiece(arm=arm, oracle=oracle, diagnoses=diagnoses))
    return pieces


def pieces(config: AblateConfig) -> list[Piece]:
    """All work in order, each piece after those that it needs: first what the arms need, then what explains them."""
    ordered: dict[Piece, None] = {}
    for arm in arms(config):
        ordered |= dict.fromkeys((*needed(arm), arm))
    for piece in decompositions(config):
        ordered |= dict.fromkeys((*piece.diagnoses, piece))
    if config.silhouette:
        ordered |= dict.fromkeys(SilhouettePiece(seed=seed) for seed in config.seeds)
    return list(ordered)


def needed(piece: Piece) -> tuple[Piece, ...]:
    """What has to be finished before a piece, in order."""
    match piece:
        case SegmenterPiece() | SilhouettePiece():
            return ()
        case ClassifierPiece(segmenter=segmenter):
            return (segmenter,) if segmenter else ()
        case EvaluationPiece(classifier=classifier, segmenter=segmenter):
            return tuple(dict.fromkeys((*needed(classifier), *((segmenter,) if segmenter else ()), classifier)))
        case DecompositionPiece(arm=arm, oracle=oracle, diagnoses=diagnoses):
            return (arm, oracle, *diagnoses)


def _of_pairs(config: AblateConfig, seed: int) -> Iterator[EvaluationPiece]:
    for objective in config.classifier_objectives:
        for pair in config.masks:
            for segmenter in _segmenters(config, pair, seed):
                yield _arm(config, objective, pair, segmenter, seed)


def _segmenters(config: AblateConfig, pair: MaskPair, seed: int) -> list[SegmenterPiece | None]:
    if not (pair.train.needs_segmenter or pair.test.needs_segmenter):
        return [None]
    return [SegmenterPiece(objective=objective, seed=seed) for objective in pair.segmenters or config.segmenter_objectives]


def _arm(
    config: AblateConfig, objective: Objective, pair: MaskPair, segmenter: SegmenterPiece | None, seed: int
) -> EvaluationPiece:
    classifier = ClassifierPiece(
        objective=objective,
        seed=seed,
        masks=config.masking.masks(pair.train),
        segmenter=segmenter if pair.train.needs_segmenter else None,
    )
    return EvaluationPiece(
        classifier=classifier,
        masks=config.masking.masks(pair.test),
        segmenter=segmenter if pair.test.needs_segmenter else None,
        role="main" if pair.test in _MAIN else "diagnostic",
    )


def _degraded(config: AblateConfig, seed: int) -> Iterator[EvaluationPiece]:
    if config.degradation is None:
        return
    for objective in config.degradation.objectives:
        masks = config.masking.masks(MaskSource.ORACLE)
        classifier = ClassifierPiece(objective=objective, seed=seed, masks=masks, segmenter=None)
        for kind in config.degradation.kinds:
            for pixels in config.degradation.pixels:
                worse = config.masking.masks(MaskSource(kind), pixels=pixels)
                yield EvaluationPiece(classifier=classifier, masks=worse, segmenter=None, role="degradation")


def _compared_with(arm: EvaluationPiece, main: list[EvaluationPiece]) -> EvaluationPiece | None:
    """The oracle's arm of the same objective and seed: of the same classifier if there is one, else trained on the oracle."""
    alike = [
        other
        for other in main
        if other.masks.source is MaskSource.ORACLE
        and (other.classifier.objective, other.seed) == (arm.classifier.objective, arm.seed)
    ]
    same = [other for other in alike if other.classifier == arm.classifier]
    return next(iter(same + [other for other in alike if other.classifier.masks.source is MaskSource.ORACLE]), None)
