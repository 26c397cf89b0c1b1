"""Reading the directory of an ablation or of an evaluation into a study. What a report relies on is checked here, and only here."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.ablation.config import MANIFEST as ABLATION
from pipeline.ablation.decomposition import DECOMPOSED
from pipeline.ablation.manifest import read_ablation
from pipeline.ablation.table_job import read_table
from pipeline.errors import RunError
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.summary import SANITY, SUMMARY, SanityReport, Summary, epsilon_text, finished_records
from pipeline.reporting.data import Arm, Condition, Role, Study
from pipeline.runs.directory import read_run
from pipeline.runs.files import near, parse_json, read_json

RUN = "run.json"
NOT_RECORDED = "not recorded"
_AGAIN = "run ablate again with resume=true"
_UNFINISHED = "The arm {} was not evaluated to its end; continue the ablation with resume=true."


@dataclass(frozen=True, kw_only=True)
class _Suite:
    attacks: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _EvaluationConfig:
    classifier_run: str | None
    segmenter_run: str | None
    seed: int
    attack: _Suite


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """What is read of an evaluation's ``run.json``."""

    config: _EvaluationConfig
    inputs: dict[str, str]
    provenance: dict[str, Any] = field(default_factory=dict)


def read_study(run: Path) -> Study:
    """Read the directory of an ablation or of a single evaluation.

    Raises RunError: it is neither, a file in it is damaged, an evaluation has not come to its end, or arms differ in data, split,
    norm, region or epsilons, so that their figures cannot stand in one table.
    """
    if not run.is_dir():
        what = "is a file" if run.exists() else "no such directory"
        raise RunError(f"{run}: {what}{near(run) or '; say a directory of foreguard ablate or foreguard evaluate'}")
    if (run / ABLATION).is_file():
        return _read_ablation(run)
    if (run / SUMMARY).is_file() or (run / "records").is_dir():
        return _read_evaluation(run)
    raise RunError(f"{run}: holds neither {ABLATION} nor an evaluation; make one with foreguard ablate or foreguard evaluate")


def _read_ablation(run: Path) -> Study:
    manifest, about = read_ablation(run)
    arms, missing = [], []
    for entry in manifest.arms:
        path = run / entry.evaluation
        if (path / SUMMARY).is_file():
            masks = (entry.train_masks.value, entry.test_masks.value)
            condition = Condition(entry.classifier_objective, entry.segmenter_objective, *masks)
            arms.append(_arm(path, entry.name, condition, entry.seed, entry.role))
        else:
            missing.append(_UNFINISHED.format(entry.name))
    for own in manifest.systems:
        path, name = run / own.evaluation, f"{own.name}, seed {own.seed}"
        if (path / SUMMARY).is_file():
            arms.append(_arm(path, name, _own_condition(own.name, Summary.read(path / SUMMARY)), own.seed, "main"))
        else:
            missing.append(_UNFINISHED.format(name))
    if not manifest.finished:
        missing.append("The ablation has not come to its end; the same foreguard ablate command continues it.")
    if not any(arm.role == "main" for arm in arms):
        raise RunError(f"{run}: no arm was evaluated to its end; continue with: foreguard ablate run={run} resume=true")
    _check_different(run, arms)
    _check_alike(arms)
    study = Study(
        name=manifest.experiment,
        path=run,
        arms=tuple(_checked_at(arm, manifest.config.primary_epsilon) for arm in arms),
        about=about,
        silhouette=None if manifest.silhouette is None else tuple(vars(entry) for entry in manifest.silhouette),
        gain=manifest.gain,
        confined=manifest.confined,
        transfers=manifest.transfers,
        missing=tuple(missing),
    )
    if manifest.decomposition is None:
        return study
    path = run / manifest.decomposition
    rows = read_table(path, DECOMPOSED, remedy=_AGAIN)
    for part in rows.partition_by("arm", maintain_order=True):
        if (at := study.primary_epsilon) not in part["epsilon"]:
            raise RunError(f"{path}: damaged (it holds nothing at {epsilon_text(at)} of {part['arm'][0]}); {_AGAIN}")
    return replace(study, decomposition=rows)


def _checked_at(arm: Arm, epsilon: float | None) -> Arm:
    """Without the checks that another experiment of the same store has made at its own epsilon since."""
    if arm.checks is None or SanityReport.read(arm.path / SANITY).epsilon == epsilon:
        return arm
    return replace(arm, checks=None)


def _read_evaluation(run: Path) -> Study:
    if not (run / SUMMARY).is_file():
        raise RunError(f"{run}: the evaluation has not come to its end; continue it with resume=true")
    about, summary = _about(run), Summary.read(run / SUMMARY)
    if summary.own is not None:
        condition = _own_condition(summary.own, summary)
    else:
        condition = Condition(
            classifier_objective=_trained_objective(about.config.classifier_run),
            segmenter_objective=_trained_objective(about.config.segmenter_run) if "segmenter" in about.inputs else None,
            train_masks=summary.trained_masks.source.value if summary.trained_masks else NOT_RECORDED,
            test_masks=summary.mask_source,
        )
    arm = _arm(run, run.resolve().name, condition, about.config.seed, "main")
    _check_alike([arm])
    return Study(name=arm.name, path=run, arms=(arm,), about=arm.about)


def _about(path: Path) -> _Evaluation:
    return parse_json(path / RUN, asdict(read_run(path)), _Evaluation, remedy="evaluate again")


def _arm(path: Path, name: str, condition: Condition, seed: int, role: Role) -> Arm:
    _about(path)
    summary = Summary.read(path / SUMMARY)
    report = SanityReport.read(path / SANITY) if (path / SANITY).is_file() else None
    masks = summary.masks
    changes = {} if masks is None else {"eroded": masks.radius, "dilated": masks.radius, "shifted": masks.shift}
    pixels = changes.get(condition.test_masks)
    if pixels is not None:
        condition = condition._replace(setting=f"{pixels} px")
    return Arm(
        name=name,
        condition=condition,
        seed=seed,
        role=role,
        path=path,
        records=finished_records(path),
        summary=summary,
        about=read_json(path / RUN),
        checks=None if report is None else report.checks,
    )


def _own_condition(name: str, summary: Summary) -> Condition:
    """That of a system of the user's own. What its masks were in training nobody has recorded."""
    return Condition(name, None, train_masks=NOT_RECORDED, test_masks=summary.mask_source, is_own=True)


def _check_different(run: Path, arms: list[Arm]) -> None:
    """One system under one seed is one arm."""
    seen: dict[tuple[Role, Condition, int], Arm] = {}
    for arm in arms:
        if seen.setdefault((arm.role, arm.condition, arm.seed), arm) is not arm:
            raise RunError(f"{run / ABLATION}: damaged (the arm {arm.name} is listed twice); {_AGAIN}")


def _check_alike(arms: list[Arm]) -> None:
    """Figures of one table are about one thing."""
    first = arms[0]
    for arm in arms:
        for key in ("data", "split", "norm", "region"):
            ours, theirs = getattr(arm.summary, key), getattr(first.summary, key)
            if ours != theirs:
                raise RunError(f"{arm.path}: has {key} {ours!r}, and {first.path} {theirs!r}: report them apart")
        epsilons = arm.records["epsilon"].unique().sort().to_list()
        if epsilons != first.records["epsilon"].unique().sort().to_list():
            raise RunError(f"{arm.path}: was attacked at other epsilons than {first.path}: report them apart")
        if not set(arm.records["sample_id"]) & set(first.records["sample_id"]):
            raise RunError(f"{arm.path}: shares no image with {first.path}: they cannot be compared")
        try:
            for epsilon in epsilons:
                robust_images(arm.records, epsilon)
        except ValueError as error:
            raise RunError(f"{arm.path}: {error}; continue it with resume=true") from error


def _trained_objective(run: str | None) -> str:
    """What a stage was trained for, where its run still lies where it lay."""
    if run is None:
        return NOT_RECORDED
    try:
        return str(read_run(Path(run)).config["objective"]["name"])
    except (RunError, KeyError, TypeError):
        return NOT_RECORDED
