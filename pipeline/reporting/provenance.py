"""How a run was made, in text: what it takes to judge it and to make it again."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.reporting.data import Study


def provenance_rows(study: Study) -> tuple[tuple[str, str], ...]:
    """Pairs of a name and text. Several values where arms differ."""
    inputs = [arm.about.get("inputs", {}) for arm in study.arms]
    provenance = [arm.about.get("provenance", {}) for arm in study.arms]
    command = f"foreguard ablate experiment={study.name}" if study.is_ablation else "foreguard evaluate"
    attacks = study.arms[0].about["config"]["attack"]["attacks"]
    skipped = sorted({f"{name}: {reason}" for arm in study.arms for name, reason in arm.summary.skipped.items()})
    own = [
        f"{arm.condition.classifier_objective}: {arm.summary.own}, SHA-256 of its state {arm.about['inputs']['system'][:16]}"
        for arm in study.arms
        if arm.condition.is_own
    ]
    rows = [
        ("Command", f"{command} run=... (configuration below)"),
        ("This page", "foreguard report run=..."),
        ("Evaluations", f"{len(study.arms)}, begun between {_span(arm.about.get('started_at') for arm in study.arms)}"),
        ("Data fingerprint", distinct(entry.get("data set") for entry in inputs)),
        ("Attacks", "; ".join(f"{name} ({_spec(spec)})" for name, spec in attacks.items())),
        ("Attacks left out", "; ".join(skipped) or "none"),
        ("Seconds of attack", f"{sum(arm.seconds for arm in study.arms):.0f} over all evaluations"),
        ("Seconds of the run", _seconds(study.about.get("seconds"))),
        ("foreguard", distinct(entry.get("foreguard") for entry in provenance)),
        ("Commit", _commits(provenance)),
        ("Python", distinct(entry.get("python") for entry in provenance)),
        ("torch", distinct(entry.get("torch") for entry in provenance)),
        (
            "Weights",
            f"{len({entry[name] for entry in inputs for name in ('classifier', 'segmenter') if name in entry})} distinct stages",
        ),
        ("Systems of your own", "; ".join(dict.fromkeys(own))),
    ]
    return tuple((name, text) for name, text in rows if text)


def configuration_text(study: Study) -> str:
    """The configuration of the run, indented JSON."""
    return json.dumps(study.about.get("config", {}), indent=2, sort_keys=True)


def distinct(values: Iterable[Any]) -> str:
    """The different values in order, with commas between them."""
    return ", ".join(sorted({str(value) for value in values if value is not None}))


def _span(values: Iterable[Any]) -> str:
    known = sorted(str(value) for value in values if value is not None)
    return f"{known[0]} and {known[-1]}" if known else "unknown times"


def _spec(spec: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in spec.items() if value is not None)


def _commits(provenance: list[dict[str, Any]]) -> str:
    commits = {(entry.get("commit"), entry.get("dirty")) for entry in provenance if entry.get("commit")}
    return ", ".join(sorted(f"{commit}{' with local changes' if dirty else ''}" for commit, dirty in commits))


def _seconds(seconds: Any) -> str:
    if not isinstance(seconds, dict):
        return ""
    return "; ".join(f"{name}: {value:.0f}" for name, value in seconds.items() if isinstance(value, int | float))
