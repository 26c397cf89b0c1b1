"""The page in Gradio: controls on one side, what is seen on the other. What it does is in ``desk``; nothing here computes."""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from markupsafe import escape

from pipeline.errors import UserError
from pipeline.lab.bench import Bench
from pipeline.lab.config import Settings
from pipeline.lab.controls import arms, choice_of, epsilon_of, images, label_shown, labels, make_controls
from pipeline.lab.desk import Choice, Desk, Session
from pipeline.lab.scene import empty_scene, rendered, scene, spoken, style
from pipeline.lab.snapshot import write_snapshot
from pipeline.lab.trial import Trial

DRAWN_EVERY_S = 0.05
"""Seconds between two frames that are drawn: more than a browser on two busy cores can show helps nobody."""
_WAITING = "Press Attack, or move anything: the attack runs again with what you chose."
_SEEN = ("status", "stage", "moment")
"""What an attack changes, in the order of its outputs."""
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
        css=str(style(follows_system=False)) + rendered("page.css"),
        js=rendered("page.js"),
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
        gr.HTML(rendered("header.html", run=str(desk.config.run)), elem_id="lab-header")
        with gr.Row(equal_height=False, elem_id="lab-columns"):
            with gr.Column(scale=0, min_width=320, elem_id="lab-controls"):
                controls = make_controls(desk)
            with gr.Column(scale=1, min_width=300, elem_id="lab-seen"):
                parts = _seen(desk)
        _connect_attacks(desk, session, controls, parts)
        about_run = [controls["image"], controls["arms"], controls["label"], *(parts[name] for name in _SEEN)]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        parts["moment"].input(_replay, [session, parts["moment"]], parts["stage"], trigger_mode="always_last", queue=False, **quiet)
        shared = _guarded(functools.partial(_share, directory), 2)
        parts["share"].click(shared, session, [parts["status"], parts["files"]], **quiet)
        parts["again"].click(functools.partial(_again, desk), None, about_run, **quiet)
        blocks.load(functools.partial(_arrive, desk, desk.bench), None, about_run, **quiet)
    return blocks


def _seen(desk: Desk) -> dict[str, Any]:
    with gr.Row(elem_id="lab-buttons"):
        buttons = {
            "attack": gr.Button("Attack", variant="primary", min_width=110, elem_id="lab-attack"),
            "stop": gr.Button("Stop", min_width=110, elem_id="lab-stop"),
            "share": gr.Button("Make a page to share", min_width=150, elem_id="lab-share"),
            "again": gr.Button("Look at the run again", min_width=150, elem_id="lab-again"),
        }
    status = gr.HTML(_first_words(desk), elem_id="lab-status", apply_default_css=False)
    files = gr.File(label="To share", visible=False, file_count="multiple", interactive=False, elem_id="lab-files")
    moment = gr.Slider(0, 1, value=0, step=1, label="Moment of the attack", visible=False, buttons=[], elem_id="lab-moment")
    stage = gr.HTML(_first_scene(desk), elem_id="lab-stage", apply_default_css=False)
    return {**buttons, "status": status, "files": files, "moment": moment, "stage": stage}


def _connect_attacks(desk: Desk, session: Any, controls: dict[str, Any], parts: dict[str, Any]) -> None:
    """Whatever is moved begins an attack; the one before ends by itself (``Desk.attack``), so they need not wait for each other."""
    attack = _guarded(functools.partial(_attack, desk), len(_SEEN))
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    begins: dict[str, Any] = {
        "inputs": [session, *controls.values()],
        "outputs": [parts[name] for name in _SEEN],
        "trigger_mode": "multiple",
        "concurrency_limit": None,
        **quiet,
    }
    photo, label = controls["photo"], controls["label"]
    parts["attack"].click(attack, js=_FIRST_SEE_IT, **begins)
    parts["stop"].click(functools.partial(_stop, desk), session, [parts["status"], parts["moment"]], queue=False, **quiet)
    gr.on([controls[name].input for name in ("label", "arms", "attack", "epsilon", "steps", "region")], attack, **begins)
    gr.on([photo.upload, photo.clear], label_shown, photo, label, **quiet).then(attack, **begins)
    controls["image"].input(lambda: (None, label_shown(None)), None, [photo, label], **quiet).then(attack, **begins)
    controls["norm"].input(epsilon_of, controls["norm"], controls["epsilon"], **quiet).then(attack, **begins)


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
        return _status(desk.trouble or "", alert=True)
    return _status(" ".join((*desk.bench.notices, _WAITING)))


def _status(text: str, *, alert: bool = False) -> str:
    """What a screen reader is told: the element around it is a live region (page.js)."""
    kind, lead = (" alert", "<b>Not possible.</b> ") if alert else ("", "")
    return f'<p class="lab lab-status{kind}">{lead}{escape(text)}</p>'


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
    drawn = 0.0
    trial: Trial | None = None
    for trial in desk.attack(session, choice_of(*values)):
        if trial is None:
            yield (gr.skip(),) * len(_SEEN)  # what an iterator yields last, Gradio sends once more
            return
        if trial.num_frames <= 1:
            yield _status(f"Attacking {trial.sample.name} ..."), scene(trial), gr.Slider(visible=False)
        elif time.monotonic() - drawn >= DRAWN_EVERY_S:
            drawn = time.monotonic()
            yield gr.skip(), scene(trial), gr.skip()
    assert trial is not None
    last = trial.num_frames - 1
    yield _status(spoken(trial)), scene(trial), gr.Slider(0, max(last, 1), value=last, visible=last > 0)


def _stop(desk: Desk, session: Session) -> Outputs:
    desk.stop(session)
    last = 0 if session.trial is None else session.trial.num_frames - 1
    return _status("Stopped. " + _WAITING), gr.Slider(0, max(last, 1), value=max(last, 0), visible=last > 0)


def _replay(session: Session, position: float) -> Any:
    return gr.skip() if session.trial is None else scene(session.trial, int(position))


def _share(directory: Path, session: Session) -> Iterator[Outputs]:
    trial = session.trial
    if trial is None or not any(view.frames for view in trial.views):
        yield _status("There is nothing to share yet: press Attack first.", alert=True), gr.skip()
        return
    paths = write_snapshot(trial, Path(tempfile.mkdtemp(dir=directory)))
    text = "A page and an animation are ready below: each is one file that needs no network."
    yield _status(text), gr.File([str(path) for path in paths], visible=True)


def _arrive(desk: Desk, served: Bench | None) -> Outputs:
    """What a page has to be told when it opens: nothing where the run is still what it was when the page was made."""
    if desk.bench is None:
        desk.look()
    return (gr.skip(),) * 6 if desk.bench is served else _run_shown(desk)


def _again(desk: Desk) -> Outputs:
    desk.look()
    return _run_shown(desk)


def _run_shown(desk: Desk) -> Outputs:
    return (
        gr.Dropdown(**images(desk)),
        gr.CheckboxGroup(**arms(desk)),
        gr.Dropdown(visible=False, **labels(desk)),
        _first_words(desk),
        _first_scene(desk),
        gr.Slider(visible=False),
    )


_FIRST_SEE_IT = """(...values) => {
  if (window.innerWidth < 768) document.getElementById("lab-seen").scrollIntoView({behavior: "instant", block: "start"});
  return values;
}"""
