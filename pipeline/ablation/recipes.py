"""Training objectives of an ablation, by name or key by key: what an entry leaves out is that of its adversarial training."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args

from omegaconf import OmegaConf
from pydantic import AfterValidator, Field, ValidationError

from pipeline.config import CONFIG_DIR, adapter_of, to_plain, validate
from pipeline.errors import ConfigError, shortened
from pipeline.training.config import ObjectiveConfig
from pipeline.training.objectives import AdversarialConfig, TradesConfig

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_CLASSES: dict[str, Any] = {config.name: config for config in get_args(get_args(ObjectiveConfig)[0])}


@cache
def names() -> tuple[str, ...]:
    """What an entry may name: the files in ``configs/objective``."""
    return tuple(sorted(path.stem for path in (CONFIG_DIR / "objective").glob("*.yaml")))


def label(entry: str | Mapping[str, Any]) -> str:
    """What arms, tables and other keys call an entry: its label, else its name."""
    return entry if isinstance(entry, str) else str(entry.get("label") or entry["name"])


def _known(entry: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    name, called = (entry, entry) if isinstance(entry, str) else (entry.get("name"), entry.get("label"))
    if name not in names():
        raise ValueError(f"{shortened(repr(name))} is no objective: name one of {', '.join(names())}")
    if called is None or called == name:
        return entry
    if not (isinstance(called, str) and _LABEL.fullmatch(called)):
        raise ValueError(f"label {shortened(repr(called))} is not made of up to 40 letters, digits, - and _")
    if called in names():
        raise ValueError(f"label {called} is the name of another objective: choose another one")
    return entry


Recipe = Annotated[str | Mapping[str, Any], AfterValidator(_known)]
"""A name, or a mapping with it, with the keys of the objective that are other than ``objective`` has them, and with a label."""
Labels = Annotated[tuple[str, ...], Field(min_length=1)]
"""What other keys call the entries that they mean."""


def objective(entry: str | Mapping[str, Any], *, adversarial: AdversarialConfig, trades: TradesConfig) -> ObjectiveConfig:
    """What an entry means. ``adversarial`` and ``trades`` are those of the ablation; every other robust objective has the attack,
    the epsilon and the validation of ``adversarial`` where the entry has no own, and everything else from ``configs/objective``.

    Raises ConfigError that names the key of the objective.
    """
    given = {"name": entry} if isinstance(entry, str) else entry
    own = {key: value for key, value in given.items() if key not in ("name", "label")}
    base = _base(given["name"], adversarial=adversarial, trades=trades)
    if "of" in base:
        base["of"] = to_plain(_perturbed(own.pop("of", base["of"]), adversarial=adversarial, trades=trades))
    if base["name"] == "fast" and "epsilon" not in {**base, **own}:
        raise ConfigError(
            f"epsilon: missing; {given['name']} steps in the maximum norm, and adversarial.attack.norm is another one"
        )
    chosen: ObjectiveConfig = validate(_CLASSES[base["name"]], _merged(base, own))
    return chosen


def _perturbed(entry: Any, *, adversarial: AdversarialConfig, trades: TradesConfig) -> ObjectiveConfig:
    """An objective within another one."""
    try:
        return objective(adapter_of(Recipe).validate_python(entry), adversarial=adversarial, trades=trades)
    except ValidationError as error:
        raise ConfigError("of: is to be an objective as in the list itself: a name, or a mapping with it") from error
    except ConfigError as error:
        raise ConfigError(f"of.{error}") from error


def _base(name: str, *, adversarial: AdversarialConfig, trades: TradesConfig) -> dict[str, Any]:
    """What the objective of a file is without keys of its own."""
    if name in ("adversarial", "trades"):
        return to_plain(adversarial if name == "adversarial" else trades)
    shipped = dict(_shipped(name))
    shared = to_plain(adversarial) | {"of": "adversarial"}
    if adversarial.attack.norm == "linf":
        shared["epsilon"] = adversarial.attack.epsilon
    own = {field.name for field in fields(_CLASSES[shipped["name"]])} - {"name"}
    return shipped | {key: value for key, value in shared.items() if key in own}


@cache
def _shipped(name: str) -> Mapping[str, Any]:
    """The file of an objective, but for its attack and the objective that it perturbs: these are the ablation's."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "objective" / f"{name}.yaml"))
    return {key: value for key, value in values.items() if key != "defaults"}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, all else from above."""
    both = {
        key: _merged(below[key], above[key])
        for key in above
        if isinstance(above[key], Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **both}
