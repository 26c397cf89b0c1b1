"""Reading the directory of an ablation or of an evaluation into a study."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import RunError
from pipeline.evaluation.outcomes import read_records
from pipeline.evaluation.robustness import standing
from pipeline.reporting.study import Arm, Condition, Role, SanityCheck, Study

FORMAT = 1
ABLATION, RUN, SUMMARY, SANITY = "ablation.json", "run.json", "summary.json", "sanity.json"
NOT_RECORDED = "not recorded"


def read_study(run: Path) -> Study:
    """Read the directory of an ablation or of a single evaluation.

    Raises RunError: it is neither, a file in it is damaged, an evaluation has not come to its end, or arms differ in data, split,
    norm, region or epsilons, so that their figures cannot stand in one table.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such directory; say run=DIRECTORY of foreguard ablate or foreguard evaluate")
    if (run / ABLATION).is_file():
        return _read_ablation(run)
    if (run / SUMMARY).is_file() or (run / "records").is_dir():
        return _read_evaluation(run)
    raise RunError(f"{run}: holds neither {ABLATION} nor an evaluation; make one with foreguard ablate or foreguard evaluate")


def _read_ablation(run: Path) -> Study:
    about = _json(run / ABLATION)
    if about.get("format") != FORMAT:
        raise RunError(f"{run / ABLATION}: format {about.get('format')} is not format {FORMAT} of this version; run ablate again")
    try:
        described = list(about["arms"])
        arms, missing = [], []
        for entry in described:
            path = run / entry["evaluation"]
            if (path / SUMMARY).is_file():
                arms.append(_arm(path, entry["name"], _condition(entry), int(entry["seed"]), entry["role"]))
            else:
                missing.append(f"The arm {entry['name']} was not evaluated to its end; continue the ablation with resume=true.")
        silhouette = None if about.get("silhouette") is None else tuple(dict(entry) for entry in about["silhouette"])
        if not about.get("finished", True):
            missing.append("The ablation has not come to its end; the same foreguard ablate command continues it.")
        decomposition = about.get("decomposition")
        name = str(about["experiment"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run / ABLATION}: damaged ({error!r}); run ablate again with resume=true") from error
    if not any(arm.role == "main" for arm in arms):
        raise RunError(f"{run}: no arm was evaluated to its end; continue with: foreguard ablate run={run} resume=true")
    _check_alike(arms)
    return Study(
        name=name,
        path=run,
        arms=tuple(arms),
        about=about,
        silhouette=silhouette,
        decomposition=None if decomposition is None else _parquet(run / decomposition),
        missing=tuple(missing),
    )


def _read_evaluation(run: Path) -> Study:
    if not (run / SUMMARY).is_file():
        raise RunError(f"{run}: the evaluation has not come to its end; continue it with resume=true")
    about, summary = _json(run / RUN), _json(run / SUMMARY)
    try:
        config, source = about["config"], str(summary["masks"]["source"])
        uses_segmenter = "segmenter" in about["inputs"]
        condition = Condition(
            classifier_objective=_trained_objective(config["classifier_run"]),
            segmenter_objective=_trained_objective(config["segmenter_run"]) if uses_segmenter else None,
            train_masks=str(summary["trained_masks"]["source"]),
            test_masks=source,
        )
        arm = _arm(run, run.resolve().name, condition, int(config["seed"]), "main")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run}: {RUN} or {SUMMARY} is damaged ({error!r}); evaluate again") from error
    _check_alike([arm])
    return Study(name=arm.name, path=run, arms=(arm,), about=about)


def _arm(path: Path, name: str, condition: Condition, seed: int, role: Role) -> Arm:
    summary = _json(path / SUMMARY)
    size = {"eroded": "radius", "dilated": "radius", "shifted": "shift"}.get(condition.test_masks)
    if size is not None:
        condition = condition._replace(setting=f"{summary['masks'][size]} px")
    checks = None
    if (path / SANITY).is_file():
        try:
            checks = tuple(SanityCheck(**check) for check in _json(path / SANITY)["checks"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{path / SANITY}: damaged ({error!r}); delete it and evaluate with resume=true") from error
    return Arm(
        name=str(name),
        condition=condition,
        seed=seed,
        role=role,
        path=path,
        records=read_records(path),
        summary=summary,
        about=_json(path / RUN),
        checks=checks,
    )


def _condition(entry: dict[str, Any]) -> Condition:
    if entry["role"] not in ("main", "degradation", "diagnostic"):
        raise ValueError(f"role {entry['role']!r}")
    segmenter = entry["segmenter_objective"]
    return Condition(
        classifier_objective=str(entry["classifier_objective"]),
        segmenter_objective=None if segmenter is None else str(segmenter),
        train_masks=str(entry["train_masks"]),
        test_masks=str(entry["test_masks"]),
    )


def _check_alike(arms: list[Arm]) -> None:
    """Figures of one table are about one thing."""
    first = arms[0]
    for arm in arms:
        for key in ("data", "split", "norm", "region"):
            ours, theirs = arm.summary.get(key), first.summary.get(key)
            if ours != theirs:
                raise RunError(f"{arm.path}: has {key} {ours!r}, and {first.path} {theirs!r}: report them apart")
        epsilons = arm.records["epsilon"].unique().sort().to_list()
        if epsilons != first.records["epsilon"].unique().sort().to_list():
            raise RunError(f"{arm.path}: was attacked at other epsilons than {first.path}: report them apart")
        if not set(arm.records["sample_id"]) & set(first.records["sample_id"]):
            raise RunError(f"{arm.path}: shares no image with {first.path}: they cannot be compared")
        try:
            for epsilon in epsilons:
                standing(arm.records, epsilon)
        except ValueError as error:
            raise RunError(f"{arm.path}: {error}; continue it with resume=true") from error


def _trained_objective(run: str | None) -> str:
    """What a stage was trained for, where its run still lies where it lay."""
    if run is None:
        return NOT_RECORDED
    path = Path(run) / RUN
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["config"]["objective"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return NOT_RECORDED


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: missing or damaged ({error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: damaged (it is no mapping)")
    return content


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: missing or damaged ({error}); run ablate again with resume=true") from error
