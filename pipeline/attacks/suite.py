"""What a system is attacked with: a threat model and a list of attacks, whose worst case per image is the verdict."""

from dataclasses import field
from pkgutil import resolve_name
from typing import Annotated, Any, Union

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from pipeline.attacks.measurements import MeasurementSpec
from pipeline.attacks.registry import SPECS
from pipeline.attacks.specs import AttackSpec
from pipeline.attacks.threat import ThreatModel
from pipeline.config import configuration


class _Registered:
    """In an annotation: any attack of the registry, told apart by its ``kind``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        specs = tuple(resolve_name(name) for name in SPECS)
        return handler.generate_schema(Annotated[Union[specs], Field(discriminator="kind")])  # noqa: UP007


@configuration
class AttackSuite:
    """A threat model and the attacks that are tried under it, in order: cheap ones first save time, the verdict is the same."""

    threat: ThreatModel = field(default_factory=ThreatModel)
    """What an attacker may change, and what it knows."""
    attacks: Annotated[dict[str, Annotated[AttackSpec, _Registered()]], Field(min_length=1)]
    """The attacks by name. The name is part of the seed: another name draws other starts."""
    measurements: dict[str, MeasurementSpec] = field(default_factory=dict)
    """What is measured besides, by name: distances, corruptions, other backgrounds, certificates. They have conditions of their own
    and know nothing of the threat model above."""
