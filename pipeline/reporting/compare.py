"""The command ``foreguard compare``: what differs between runs, on the images that both have met, as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.comparisons import Comparison, Conclusion
from pipeline.reporting.config import CompareConfig
from pipeline.reporting.data import Study
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import caution, check_threats, differences, named, systems_text, why_not
from pipeline.reporting.tables import comparison_tidy
from pipeline.terminal import Style, aligned, colored

_HEAD = ("epsilon", "points", "95 % interval", "p (Holm)", "only first/second", "n", "higher", "system")
_STYLES: dict[str, Style] = {"first": "good", "second": "bad", "not shown": "note"}


def compare_runs(config: CompareConfig) -> dict[str, Any]:
    """Print, and return, the differences of every run from the first. Raises RunError: threat models differ, or no pair of runs
    has a system on the same images; ConfigError: an epsilon that was not attacked."""
    studies = [read_study(run) for run in config.runs]
    check_threats(studies)
    if config.epsilon is not None:
        _check_attacked(config.epsilon, studies)
    (first, reference), *others = named(studies).items()
    print(f"robust accuracy on the same images, under {wording.perturbations(reference)}")
    answer: list[dict[str, Any]] = []
    reasons = []
    for name, study in others:
        found = [one for one in differences(study, reference) if config.epsilon is None or abs(one.epsilon - config.epsilon) < 1e-9]
        if not found:
            reasons.append(f"{name} and {first}: {why_not(study, reference)}")
            continue
        print(colored(f"{name} minus {first}", "head"))
        print("\n".join(aligned([_HEAD, *map(_row, found)], _STYLES)))
        if (doubt := caution(first, reference, {name: (study, found)})) is not None:
            print(colored(f"BEWARE: {doubt}", "note"))
        rows = [
            {**comparison_tidy(one), "second_classifier_objective": one.second.classifier_objective, "conclusion": one.conclusion}
            for one in found
        ]
        answer.append({"run": name, "reference": first, "caution": doubt, "differences": rows})
    if not answer:
        raise RunError(f"no system can be compared image by image ({'; '.join(reasons)})")
    for reason in reasons:
        print(colored(f"not compared: {reason}", "note"))
    return {"comparisons": answer, "not_compared": reasons}


def _check_attacked(epsilon: float, studies: Sequence[Study]) -> None:
    for study in studies:
        if not any(abs(one - epsilon) < 1e-9 for one in study.attacked):
            attacked = ", ".join(map(epsilon_text, study.attacked)) or "no epsilon above 0"
            raise ConfigError(f"epsilon={epsilon_text(epsilon)}: {study.path} was attacked at {attacked}")


def _row(one: Comparison) -> tuple[str, ...]:
    """A difference is shown where its interval and the corrected test agree."""
    shown = {Conclusion.HIGHER: "first", Conclusion.LOWER: "second"}.get(one.conclusion, "not shown")
    only = ", ".join(f"{each.only_first}/{each.only_second}" for each in one.by_seed)
    sample = str(one.difference.n) + ("" if one.difference.groups == one.difference.n else f" in {one.difference.groups} groups")
    system = f"{wording.heading(one.first)}; masks {systems_text(one)}"
    interval = wording.points_interval(one.difference)
    p_value = wording.p_text(one.adjusted)
    return (epsilon_text(one.epsilon), wording.points(one.difference), interval, p_value, only, sample, shown, system)
