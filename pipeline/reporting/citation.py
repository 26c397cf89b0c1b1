"""What a paper needs of a report: a paragraph for its methods, how to cite what was used, and what it takes to make it again."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Study
from pipeline.reporting.templating import latex, sentences
from pipeline.reporting.trust import failures

_KNOWLEDGE = {"white-box": "knows the whole system and differentiates through all of it (white-box)"}

_IN_BFLOAT16 = " Gradients of the searches were computed in bfloat16, every verdict in float32."

WILSON = "Shares have 95 % Wilson score intervals"
OF_GROUPS = (
    ", at the effective number of images (Mancl and DeRouen 2001; Pan and Wall 2002) because images of one photograph or track are "
    "not independent"
)
POOLED = (
    "Intervals are 95 % percentile intervals of a bootstrap over {units} and trainings, of shares never within Wilson's and of "
    "differences never within Tango's score interval"
)


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
            threat=wording.threat_text(study),
            epsilons=_listed([epsilon_text(epsilon) for epsilon in study.attacked]),
            attacks="; ".join(_attack(name, spec) for name, spec in attack["attacks"].items()),
            searched=_IN_BFLOAT16 if any(one.about["config"].get("precision") == "bf16" for one in study.arms) else "",
            left_out=f" Left out where they say nothing about a system: {'; '.join(skipped)}." if skipped else "",
            intervals=f"{intervals}. {_trainings(study, seeds)}",
            seeds_text=", the largest over the trainings" if seeds > 1 else "",
            checks=_checks(study),
        )
    )


def _trainings(study: Study, seeds: int) -> str:
    """How often the systems were trained, and which ones came trained."""
    count = ("once" if seeds == 1 else f"from {seeds} seeds") + _in_folds(study.about.get("config", {}))
    own = dict.fromkeys(f"{arm.condition.classifier_objective} ({arm.summary.own})" for arm in study.arms if arm.condition.is_own)
    if not own:
        return f"Every system was trained {count}."
    came = f"{_listed(list(own))} came trained{'' if seeds == 1 else f', and the attacks start from {seeds} seeds'}."
    return f"Every other system was trained {count}. {came}" if study.classifier_objectives else came


def _in_folds(config: Mapping[str, Any]) -> str:
    """Of a cross-validation, in how many folds; empty where there was none."""
    if not (folds := config.get("folds")):
        return ""
    some = len(config.get("only_folds") or range(folds))
    which = f"{some} of the {folds}" if some < folds else folds
    return f" in each of {which} folds of a cross-validation, without its test images"


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


def provenance_rows(study: Study) -> tuple[tuple[str, str], ...]:
    """Pairs of a name and text. Several values where arms differ."""
    inputs = [arm.about.get("inputs", {}) for arm in study.arms]
    provenance = [arm.about.get("provenance", {}) for arm in study.arms]
    command = f"foreguard ablate experiment={study.name}" if study.is_ablation else "foreguard evaluate"
    begun = sorted(str(arm.about["started_at"]) for arm in study.arms if arm.about.get("started_at") is not None)
    attacks = study.arms[0].about["config"]["attack"]["attacks"]
    skipped = sorted({f"{name}: {reason}" for arm in study.arms for name, reason in arm.summary.skipped.items()})
    own = [
        f"{arm.condition.classifier_objective}: {arm.summary.own}, SHA-256 of its state {arm.about['inputs']['system'][:16]}"
        for arm in study.arms
        if arm.condition.is_own
    ]
    weights = {entry[name] for entry in inputs for name in ("classifier", "segmenter") if name in entry}
    rows = [
        ("Command", f"{command} run=... (configuration below)"),
        ("This page", "foreguard report run=..."),
        ("Evaluations", f"{len(study.arms)}, begun between {f'{begun[0]} and {begun[-1]}' if begun else 'unknown times'}"),
        ("Data fingerprint", distinct(entry.get("data set") for entry in inputs)),
        ("Attacks", "; ".join(f"{name} ({_spec(spec)})" for name, spec in attacks.items())),
        ("Attacks left out", "; ".join(skipped) or "none"),
        ("Seconds of attack", f"{sum(arm.seconds for arm in study.arms):.0f} over all evaluations"),
        ("Seconds of the run", _seconds(study.about.get("seconds"))),
        ("foreguard", distinct(entry.get("foreguard") for entry in provenance)),
        ("Commit", _commits(provenance)),
        ("Python", distinct(entry.get("python") for entry in provenance)),
        ("torch", distinct(entry.get("torch") for entry in provenance)),
        ("Weights", f"{len(weights)} distinct stages"),
        ("Systems of your own", "; ".join(dict.fromkeys(own))),
    ]
    return tuple((name, text) for name, text in rows if text)


def configuration_text(study: Study) -> str:
    """The configuration of the run, indented JSON."""
    return json.dumps(study.about.get("config", {}), indent=2, sort_keys=True)


def distinct(values: Iterable[Any]) -> str:
    """The different values in order, with commas between them."""
    return ", ".join(sorted({str(value) for value in values if value is not None}))


def _spec(spec: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in spec.items() if value is not None)


def _commits(provenance: list[dict[str, Any]]) -> str:
    commits = {(entry.get("commit"), entry.get("dirty")) for entry in provenance if entry.get("commit")}
    return ", ".join(sorted(f"{commit}{' with local changes' if dirty else ''}" for commit, dirty in commits))


def _seconds(seconds: Any) -> str:
    if not isinstance(seconds, dict):
        return ""
    return "; ".join(f"{name}: {value:.0f}" for name, value in seconds.items() if isinstance(value, int | float))
