"""The controls of the page: what can be moved, and what comes of it."""

from pathlib import Path
from typing import Any

import gradio as gr

from pipeline.attacks.specs import AttackSpec, ClassAttack, GradientPath, GuidedAttack, MaskAttack
from pipeline.attacks.threat import Region
from pipeline.lab.config import MOST_ARMS, MOST_STEPS, Settings, lab_attacks
from pipeline.lab.desk import Choice, Desk
from pipeline.reporting.wording import NORMS

EPSILON = {
    "linf": (32.0, 0.5, 8.0, "Epsilon, of 255"),
    "l2": (5.0, 0.05, 1.0, "Epsilon, length"),
    "l1": (60.0, 0.5, 12.0, "Epsilon, sum of all changes"),
}
"""By norm: largest value, step and first value of the slider, and what it says."""
UNIT = {"linf": 1 / 255, "l2": 1.0, "l1": 1.0}
_WAYS = {
    GradientPath.BOTH: "the class, end to end",
    GradientPath.PIXELS: "the class, by the pixels alone",
    GradientPath.MASK: "the class, by the mask alone",
    GradientPath.BALANCED: "the class, both paths with equal weight",
}


def make_controls(desk: Desk) -> dict[str, Any]:
    """What can be chosen, in the order of the arguments of ``choice_of``."""
    largest, step, first, label = EPSILON["linf"]
    made: dict[str, Any] = {}
    with gr.Group():
        made["image"] = gr.Dropdown(label="Image of the test split", elem_id="lab-image", **images(desk))
        made["photo"] = gr.File(label="Or drop in a photo", type="filepath", height=140, elem_id="lab-photo")
        made["label"] = gr.Dropdown(label="What the photo shows", visible=False, elem_id="lab-label", **labels(desk))
    made["arms"] = gr.CheckboxGroup(label=f"Systems, up to {MOST_ARMS} side by side", elem_id="lab-arms", **arms(desk))
    with gr.Group():
        attacks = [(_about(name, spec), name) for name, spec in lab_attacks().items()]
        made["attack"] = gr.Dropdown(attacks, value="apgd-margin", label="Attack", elem_id="lab-kind")
        norms = [(NORMS[name], name) for name in EPSILON]
        made["norm"] = gr.Radio(norms, value="linf", label="Norm of the change", elem_id="lab-norm")
        made["epsilon"] = gr.Slider(0, largest, value=first, step=step, label=label, elem_id="lab-epsilon", buttons=[])
        made["steps"] = gr.Slider(1, MOST_STEPS, value=20, step=1, label="Steps", elem_id="lab-steps", buttons=[])
        regions = [(one.value, one.value) for one in Region]
        made["region"] = gr.Dropdown(regions, value="everywhere", label="Pixels that may change", elem_id="lab-region")
    return made


def _about(name: str, spec: AttackSpec) -> str:
    """``apgd-margin: the class, end to end``"""
    if isinstance(spec, ClassAttack):
        return f"{name}: {'through a soft gate' if spec.gate == 'soft' else _WAYS[spec.path]}"
    if isinstance(spec, GuidedAttack):
        return f"{name}: first the mask ({spec.goal.value}), then the class"
    assert isinstance(spec, MaskAttack)
    return f"{name}: the mask {'alone' if spec.loss is None else 'and the class'} ({spec.goal.value})"


def images(desk: Desk) -> dict[str, Any]:
    """The list of the test split, as a component takes it."""
    names = [] if desk.bench is None else desk.bench.image_names
    return {
        "choices": [(name, number) for number, name in enumerate(names)],
        "value": 0 if names else None,
        "interactive": bool(names),
    }


def arms(desk: Desk) -> dict[str, Any]:
    """The systems, and which are shown at first."""
    bench = desk.bench
    if bench is None:
        return {"choices": [], "value": []}
    return {"choices": [(f"{arm.title}, {arm.detail}", arm.name) for arm in bench.arms], "value": list(bench.shown)}


def labels(desk: Desk) -> dict[str, Any]:
    """What a photo may show; -1: nobody says."""
    classes = () if desk.bench is None else desk.bench.classes
    return {"choices": [("as each system sees it", -1), *((name, number) for number, name in enumerate(classes))], "value": -1}


def choice_of(
    image: int | None,
    photo: str | None,
    label: int | None,
    arms: list[str],
    attack: str,
    norm: Any,
    epsilon: float,
    steps: float,
    region: str,
) -> Choice:
    """The values of the controls, in their order. Raises ConfigError."""
    settings = Settings(attack=attack, norm=norm, epsilon=epsilon * UNIT[norm], steps=int(steps), region=Region(region))
    known = None if label is None or label < 0 else label
    return Choice(image=image, photo=None if photo is None else Path(photo), label=known, arms=arms, settings=settings)


def label_shown(photo: str | None) -> Any:
    """Whether it is asked what the photo shows."""
    return gr.Dropdown(visible=photo is not None, value=-1)


def epsilon_of(norm: str) -> Any:
    """The slider of a norm."""
    largest, step, first, label = EPSILON[norm]
    return gr.Slider(0, largest, value=first, step=step, label=label)
