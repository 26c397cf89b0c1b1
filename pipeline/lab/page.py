"""The page in Gradio: controls on one side, what is seen on the other. What it does is in ``desk``; nothing here computes."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from markupsafe import escape

from pipeline.attacks.specs import AttackSpec, ClassAttack, GradientPath, GuidedAttack, MaskAttack
from pipeline.attacks.threat import Region
from pipeline.errors import UserError
from pipeline.lab.config import MOST_ARMS, MOST_STEPS, Settings, lab_attacks
from pipeline.lab.desk import Choice, Desk, Session
from pipeline.lab.scene import empty_scene, environment, scene, spoken, style
from pipeline.lab.snapshot import write_snapshot
from pipeline.lab.trial import Trial

EPSILON = {"linf": (32.0, 0.5, 8.0, "Epsilon, of 255"), "l2": (5.0, 0.05, 1.0, "Epsilon, length")}
"""By norm: largest value, step and first value of the slider, and what it says."""
UNIT = {"linf": 1 / 255, "l2": 1.0}
MARK_AT = 0.05
"""Seconds between two frames that are drawn: more than a browser on two busy cores can show helps nobody."""
_WAITING = "Press Attack, or move anything: the attack runs again with what you chose."
Outputs = tuple[Any, ...]


def application(desk: Desk, directory: Path) -> fastapi.FastAPI:
    """The page as an application to be served. ``directory`` is where files to be handed on are written."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    ).set(body_background_fill="#f5f6f8", body_background_fill_dark="#101216")
    mounted: fastapi.FastAPI = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        _blocks(desk, directory),
        path="/",
        theme=theme,
        css=str(style(follows_system=False)) + environment().get_template("page.css").render(),
        js=environment().get_template("page.js").render(),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size="64mb",
        allowed_paths=[str(directory)],
    )
    return mounted


def _blocks(desk: Desk, directory: Path) -> Any:
    with gr.Blocks(title=f"foreguard lab: {desk.config.run.name}", analytics_enabled=False, fill_width=True) as blocks:
        session = gr.State(Session())
        gr.HTML(environment().get_template("header.html").render(run=str(desk.config.run)), elem_id="lab-header")
        with gr.Row(equal_height=False, elem_id="lab-columns"):
            with gr.Column(scale=0, min_width=300, elem_id="lab-controls"):
                controls = _controls(desk)
            with gr.Column(scale=1, min_width=300, elem_id="lab-seen"):
                with gr.Row(elem_id="lab-buttons"):
                    attack = gr.Button("Attack", variant="primary", min_width=110, elem_id="lab-attack")
                    stop = gr.Button("Stop", min_width=110, elem_id="lab-stop")
                    share = gr.Button("Make a page to share", min_width=150, elem_id="lab-share")
                    again = gr.Button("Look at the run again", min_width=150, elem_id="lab-again")
                status = gr.HTML(_status(_first_words(desk)), elem_id="lab-status", apply_default_css=False)
                files = gr.File(label="To share", visible=False, file_count="multiple", interactive=False, elem_id="lab-files")
                moment = gr.Slider(
                    0, 1, value=0, step=1, label="Moment of the attack", visible=False, buttons=[], elem_id="lab-moment"
                )
                stage = gr.HTML(_first_scene(desk), elem_id="lab-stage", apply_default_css=False)
        seen = [status, stage, moment]
        shown = _guarded(functools.partial(_attack, desk), len(seen))
        values = [session, *controls.values()]
        inputs: dict[str, Any] = {
            "inputs": values,
            "outputs": seen,
            "show_progress": "hidden",
            "trigger_mode": "multiple",
            "concurrency_limit": None,
        }
        attack.click(shown, js=_FIRST_SEE_IT, **inputs)
        gr.on([controls[name].input for name in ("label", "arms", "attack", "epsilon", "steps", "region")], shown, **inputs)
        gr.on(
            [controls["photo"].upload, controls["photo"].clear],
            _labels_shown,
            controls["photo"],
            controls["label"],
            show_progress="hidden",
        ).then(shown, **inputs)
        controls["image"].input(
            lambda: (None, gr.Dropdown(visible=False, value=-1)),
            None,
            [controls["photo"], controls["label"]],
            show_progress="hidden",
        ).then(shown, **inputs)
        controls["norm"].input(_epsilon, controls["norm"], controls["epsilon"], show_progress="hidden").then(shown, **inputs)
        stop.click(desk.stop, session, None, queue=False)
        moment.input(_replay, [session, moment], stage, show_progress="hidden", queue=False, trigger_mode="always_last")
        share.click(_guarded(functools.partial(_share, directory), 2), session, [status, files], show_progress="hidden")
        again.click(
            functools.partial(_again, desk),
            None,
            [controls["image"], controls["arms"], controls["label"], *seen],
            show_progress="hidden",
        )
    return blocks


def _controls(desk: Desk) -> dict[str, Any]:
    """What can be chosen, in the order of the arguments of ``_choice``."""
    largest, step, first, label = EPSILON["linf"]
    with gr.Group():
        image = gr.Dropdown(label="Image of the test split", elem_id="lab-image", **_images(desk))
        photo = gr.File(label="Or drop in a photo", type="filepath", height=140, elem_id="lab-photo")
        shows = gr.Dropdown(label="What the photo shows", visible=False, elem_id="lab-label", **_labels(desk))
    arms = gr.CheckboxGroup(label=f"Systems, up to {MOST_ARMS} side by side", elem_id="lab-arms", **_arms(desk))
    with gr.Group():
        attack = gr.Dropdown(
            [(_about(name, spec), name) for name, spec in lab_attacks().items()],
            value="apgd-margin",
            label="Attack",
            elem_id="lab-kind",
        )
        norm = gr.Radio([("L-infinity", "linf"), ("L2", "l2")], value="linf", label="Norm of the change", elem_id="lab-norm")
        epsilon = gr.Slider(0, largest, value=first, step=step, label=label, elem_id="lab-epsilon", buttons=[])
        steps = gr.Slider(1, MOST_STEPS, value=20, step=1, label="Steps", elem_id="lab-steps", buttons=[])
        region = gr.Dropdown(
            [(one.value, one.value) for one in Region], value="everywhere", label="Pixels that may change", elem_id="lab-region"
        )
    return {
        "image": image,
        "photo": photo,
        "label": shows,
        "arms": arms,
        "attack": attack,
        "norm": norm,
        "epsilon": epsilon,
        "steps": steps,
        "region": region,
    }


def _about(name: str, spec: AttackSpec) -> str:
    """``apgd-margin: the class, end to end``"""
    if isinstance(spec, ClassAttack):
        ways = {
            GradientPath.BOTH: "the class, end to end",
            GradientPath.PIXELS: "the class, by the pixels alone",
            GradientPath.MASK: "the class, by the mask alone",
            GradientPath.BALANCED: "the class, both paths with equal weight",
        }
        return f"{name}: {'through a soft gate' if spec.gate == 'soft' else ways[spec.path]}"
    if isinstance(spec, GuidedAttack):
        return f"{name}: first the mask ({spec.goal.value}), then the class"
    assert isinstance(spec, MaskAttack)
    return f"{name}: the mask {'alone' if spec.loss is None else 'and the class'} ({spec.goal.value})"


def _images(desk: Desk) -> dict[str, Any]:
    names = [] if desk.bench is None else desk.bench.image_names
    return {
        "choices": [(name, number) for number, name in enumerate(names)],
        "value": 0 if names else None,
        "interactive": bool(names),
    }


def _arms(desk: Desk) -> dict[str, Any]:
    bench = desk.bench
    if bench is None:
        return {"choices": [], "value": []}
    return {"choices": [(f"{arm.title}, {arm.detail}", arm.name) for arm in bench.arms], "value": list(bench.shown)}


def _labels(desk: Desk) -> dict[str, Any]:
    classes = () if desk.bench is None else desk.bench.classes
    return {"choices": [("as each system sees it", -1), *((name, number) for number, name in enumerate(classes))], "value": -1}


def _choice(
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
    settings = Settings(attack=attack, norm=norm, epsilon=epsilon * UNIT[norm], steps=int(steps), region=Region(region))
    known = None if label is None or label < 0 else label
    return Choice(image=image, photo=None if photo is None else Path(photo), label=known, arms=arms, settings=settings)


def _first_scene(desk: Desk) -> str:
    if desk.bench is None:
        return empty_scene("Nothing to attack yet", desk.trouble or "")
    if desk.bench.dataset is None:
        return empty_scene("Drop in a photo", "There is no image of a test split here.")
    try:
        return scene(desk.first(Choice(image=0, photo=None, label=None, arms=desk.bench.shown, settings=Settings())))
    except UserError as error:
        return empty_scene("Nothing to see", str(error))


def _first_words(desk: Desk) -> str:
    if desk.bench is None:
        return f"{desk.trouble}"
    return " ".join((*desk.bench.notices, _WAITING))


def _status(text: str, *, alert: bool = False) -> str:
    """What a screen reader is told: the element around it is a live region (page.js)."""
    return f'<p class="lab lab-status{" alert" if alert else ""}">{escape(text)}</p>'


def _guarded(function: Callable[..., Iterator[Outputs]], count: int) -> Callable[..., Iterator[Any]]:
    """A user's mistake becomes a message in the page, and the other outputs stay as they are."""

    def told(*values: Any) -> Iterator[Any]:
        try:
            yield from function(*values)
        except UserError as error:
            yield (_status(str(error), alert=True), *[gr.skip()] * (count - 1))

    return told


def _attack(desk: Desk, session: Session, *values: Any) -> Iterator[Outputs]:
    """Frames of a running attack; of one that a newer one has replaced, nothing more."""
    import time

    nothing = (gr.skip(), gr.skip(), gr.skip())
    request, drawn = session.request + 1, 0.0
    trial: Trial | None = None
    for trial in desk.attack(session, _choice(*values)):
        if trial.num_frames == 1:
            yield _status(f"Attacking {trial.sample.name} ..."), scene(trial), gr.Slider(visible=False)
        elif time.monotonic() - drawn >= MARK_AT:
            drawn = time.monotonic()
            yield gr.skip(), scene(trial), gr.skip()
    if trial is None or session.request != request:
        yield nothing  # what an iterator yields last, Gradio sends once more
        return
    last = trial.num_frames - 1
    yield _status(spoken(trial)), scene(trial), gr.Slider(0, max(last, 1), value=last, visible=last > 0)


def _replay(session: Session, position: float) -> Any:
    return gr.skip() if session.trial is None else scene(session.trial, int(position))


def _labels_shown(photo: str | None) -> Any:
    return gr.Dropdown(visible=photo is not None, value=-1)


def _epsilon(norm: str) -> Any:
    largest, step, first, label = EPSILON[norm]
    return gr.Slider(0, largest, value=first, step=step, label=label)


def _share(directory: Path, session: Session) -> Iterator[Outputs]:
    trial = session.trial
    if trial is None or not any(view.frames for view in trial.views):
        yield _status("There is nothing to share yet: press Attack first.", alert=True), gr.skip()
        return
    paths = write_snapshot(trial, Path(tempfile.mkdtemp(dir=directory)))
    text = "A page and an animation are ready below: each is one file that needs no network."
    yield _status(text), gr.File([str(path) for path in paths], visible=True)


def _again(desk: Desk) -> Outputs:
    desk.look()
    return (
        gr.Dropdown(**_images(desk)),
        gr.CheckboxGroup(**_arms(desk)),
        gr.Dropdown(visible=False, **_labels(desk)),
        _status(_first_words(desk), alert=desk.bench is None),
        _first_scene(desk),
        gr.Slider(visible=False),
    )


_FIRST_SEE_IT = """(...values) => {
  if (window.innerWidth < 768) document.getElementById("lab-seen").scrollIntoView({behavior: "instant", block: "start"});
  return values;
}"""
