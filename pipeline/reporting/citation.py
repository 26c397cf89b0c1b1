"""What a paper needs of a report: a paragraph for its methods, and how to cite what was used."""

from collections import Counter
from typing import Any

from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Study
from pipeline.reporting.provenance import distinct
from pipeline.reporting.templating import latex, sentences
from pipeline.reporting.trust import failures

_KNOWLEDGE = {"white-box": "knows the whole system and differentiates through all of it (white-box)"}

WILSON = "Shares have 95 % Wilson score intervals"
OF_GROUPS = (
    ", at the effective number of images (Mancl and DeRouen 2001; Pan and Wall 2002) because images of one photograph or track are "
    "not independent"
)
POOLED = "Intervals are 95 % percentile intervals of a bootstrap over {units} and trainings"


def methods(study: Study) -> tuple[str, ...]:
    """The paragraph, in parts that each stand for themselves."""
    arm = study.arms[0]
    attack = arm.about["config"]["attack"]
    knowledge = (attack.get("threat") or {}).get("knowledge", "white-box")
    seeds = len({one.seed for one in study.arms})
    images, groups = study.sample
    skipped = sorted({f"{name} ({reason})" for one in study.arms for name, reason in one.summary.skipped.items()})
    intervals = WILSON + (OF_GROUPS if groups < images else "") if seeds == 1 else POOLED.format(units=wording.units(study))
    return tuple(
        sentences(
            "methods.txt",
            {},
            version=distinct(one.about.get("provenance", {}).get("foreguard") for one in study.arms),
            sample=f"{images} {arm.summary.split} images",
            data=arm.summary.data,
            classes=len(arm.summary.classes),
            of_groups=f" from {groups} {wording.units(study)}" if groups < images else "",
            knowledge=_KNOWLEDGE.get(knowledge, f"is of the kind {knowledge}"),
            threat=wording.threat_text(study, study.epsilons[-1]),
            epsilons=_listed([epsilon_text(epsilon) for epsilon in study.attacked]),
            attacks="; ".join(_attack(name, spec) for name, spec in attack["attacks"].items()),
            left_out=f" Left out where they say nothing about a system: {'; '.join(skipped)}." if skipped else "",
            intervals=f"{intervals}. {_trainings(study, seeds)}",
            seeds_text=", the largest over the trainings" if seeds > 1 else "",
            checks=_checks(study),
        )
    )


def _trainings(study: Study, seeds: int) -> str:
    """How often the systems were trained, and which ones came trained."""
    count = "once" if seeds == 1 else f"from {seeds} seeds"
    own = dict.fromkeys(f"{arm.condition.classifier_objective} ({arm.summary.own})" for arm in study.arms if arm.condition.is_own)
    if not own:
        return f"Every system was trained {count}."
    came = f"{_listed(list(own))} came trained{'' if seeds == 1 else f', and the attacks start from {seeds} seeds'}."
    return f"Every other system was trained {count}. {came}" if study.classifier_objectives else came


def citation(study: Study, *, key: str = "foreguard") -> tuple[tuple[str, str], ...]:
    """A line for the text, and the same as BibTeX under a key. Dates and versions are the run's."""
    provenance = [one.about.get("provenance", {}) for one in study.arms]
    version = distinct(entry.get("foreguard") for entry in provenance)
    commit = distinct(str(entry["commit"])[:12] for entry in provenance if entry.get("commit"))
    year = max(str(one.about.get("started_at", "")) for one in study.arms)[:4]
    data = distinct(str(value)[:12] for one in study.arms if (value := one.about.get("inputs", {}).get("data set")))
    made = f"version {version}" + (f", commit {commit}" if commit else "")
    line = f"The foreguard founders, foreguard, {made}, {year}; report of {study.name}, data fingerprint {data}."
    title = "foreguard: does removing the background make an image classifier harder to fool?"
    note = f"{made}; report of {latex(study.name)}, data fingerprint {data}"
    fields = {"author": "{The foreguard founders}", "title": title, "year": year, "version": version, "note": note}
    bibtex = f"@software{{{key},\n" + "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items()) + "}"
    question = (
        "Vaishnavi, Cong, Eykholt, Prakash and Rahmati, Can Attention Masks Improve Adversarial Robustness?, 2019, arXiv 1911.11946"
    )
    return (("Text", line), ("BibTeX", bibtex), ("The question comes from", question))


def _attack(name: str, spec: dict[str, Any]) -> str:
    """``apgd (class, search apgd, 20 steps)``"""
    told = [str(spec["kind"])] if "kind" in spec else []
    told += [f"{key} {spec[key]}" for key in ("search", "loss", "goal") if spec.get(key)]
    counted = {"num_steps": "steps", "restarts": "restarts", "num_targets": "targets", "num_queries": "queries"}
    told += [f"{spec[key]} {text if spec[key] != 1 else text.removesuffix('s')}" for key, text in counted.items() if spec.get(key)]
    return f"{name} ({', '.join(told)})" if told else name


def _checks(study: Study) -> str:
    outcomes = Counter(check.outcome.value for arm in study.arms for check in arm.checks or ())
    checked = sum(arm.checks is not None for arm in study.arms)
    if not checked:
        return "No diagnostics of the attacks were made."
    systems = f"{checked} of {len(study.arms)} systems"
    counted = f"Diagnostics of the attacks on {systems}: {outcomes['PASS']} passed, {outcomes['FAIL']} failed."
    doubted = dict.fromkeys(f"{wording.system_text(one.condition)} ({one.name})" for one in failures(study))
    return f"{counted} Figures of these systems are not trusted: {'; '.join(doubted)}." if doubted else counted


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)
