"""The suites that ship (configs/attack), and their attacks by name."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from pipeline.attacks.specs import AttackSpec
from pipeline.attacks.suite import AttackSuite
from pipeline.config import CONFIG_DIR, validate
from pipeline.errors import ConfigError, shortened

_FIRST = "standard"
"""Where an attack's name is looked for first."""


def attacks_by_name(attacks: str | Sequence[str] | Mapping[str, AttackSpec]) -> dict[str, AttackSpec]:
    """The attacks of a shipped suite, those of that name in the suites, or those given. Raises ConfigError for an unknown name.

    >>> list(attacks_by_name("quickstart"))
    ['pgd', 'apgd-targeted', 'joint-collapse']
    >>> attacks_by_name(["apgd-margin"])["apgd-margin"].restarts
    5
    """
    if isinstance(attacks, str):
        if attacks in suites():
            return dict(suites()[attacks].attacks)
        attacks = [attacks]
    if isinstance(attacks, Mapping):
        return dict(attacks)
    given: Any = attacks  # at a prompt nothing holds anybody to the types
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"attacks is {shortened(repr(attacks))}, expected a suite, names of attacks, or attacks by a name of yours"
        )
    return {name: spec_by_name(name) for name in attacks}


def spec_by_name(name: str) -> AttackSpec:
    """The attack of that name in the first of the shipped suites that has one. Raises ConfigError with near names."""
    for suite in suites().values():
        if name in suite.attacks:
            return suite.attacks[name]
    if name in suites():
        raise ConfigError(f"{name!r} is a suite, and an attack is meant: name one of {', '.join(suites()[name].attacks)}")
    names = list(dict.fromkeys([*suites(), *(attack for suite in suites().values() for attack in suite.attacks)]))
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    raise ConfigError(f"there is no suite and no attack {name!r}: {remedy}")


@cache
def suites() -> dict[str, AttackSuite]:
    """The shipped suites by name, ``standard`` first, then by the alphabet.

    >>> list(suites())[:2]
    ['standard', 'autoattack']
    """
    names = sorted((path.stem for path in (CONFIG_DIR / "attack").glob("*.yaml")), key=lambda name: (name != _FIRST, name))
    return {name: validate(AttackSuite, _read(name)) for name in names}


def _read(name: str) -> dict[str, Any]:
    """A suite as the command composes it: the files that it builds on, then its own."""
    read = OmegaConf.load(CONFIG_DIR / "attack" / f"{name}.yaml")
    own: Any = OmegaConf.to_container(read)
    whole: dict[str, Any] = {}
    for base in own.pop("defaults", ["_self_"]):
        whole |= own if base == "_self_" else _read(base)
    return whole
