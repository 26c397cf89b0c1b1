"""A trial as a person sees it: the HTML of one frame, and the same in a sentence."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from jinja2 import Environment
from markupsafe import Markup
from torch import Tensor

from pipeline.ablation.counterfactual import Attribution
from pipeline.evaluation.examples import as_bytes
from pipeline.evaluation.summary import epsilon_text
from pipeline.lab.chart import Chart, around_zero, chart
from pipeline.lab.config import Settings
from pipeline.lab.frames import Frame, Phase, num_points, second_start, unseen
from pipeline.lab.trial import Trial, View
from pipeline.masks.config import MaskSource
from pipeline.reporting.decomposition import LOST
from pipeline.reporting.gallery import Picture
from pipeline.reporting.wording import NORMS
from pipeline.templates import templates

BARS = 4
"""Classes that are shown."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a system says of one class."""

    name: str
    share: float
    """Softmax of its logit, 0 to 1."""
    clean: float
    """The same of the clean image."""
    is_label: bool
    is_prediction: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """One system in one frame."""

    view: View
    verdict: str = ""
    """In a few words; empty where nothing was seen."""
    tone: str = "neutral"
    """good, bad or neutral."""
    says: str = ""
    pictures: tuple[Picture, ...] = ()
    bars: tuple[Bar, ...] = ()
    charts: tuple[Chart, ...] = ()
    paths: tuple[tuple[str, float], ...] = ()
    """The margins of the two ways from the image to the class, each by itself, with their names."""
    cause: str = ""
    """By what the image was lost; empty where it was not."""


@cache
def environment() -> Environment:
    """The templates: every value is escaped."""
    made = templates("pipeline.lab", autoescape=True)
    made.filters["signed"] = lambda value: f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return made


def rendered(template: str, **values: Any) -> str:
    """A template with its values."""
    return environment().get_template(template).render(**values)


def style(*, follows_system: bool) -> Markup:
    """The style sheet: dark where the system is, or where Gradio says so. Our own file; nothing from data goes into it."""
    return Markup(rendered("scene.css", follows_system=follows_system))


def scene(trial: Trial, position: int | None = None) -> str:
    """The HTML of the trial at one of its frames; None: the newest."""
    newest = trial.num_frames - 1
    at = newest if position is None else min(max(position, 0), newest)
    last = max(num_points(trial.settings) - 1, 1)
    return rendered(
        "scene.html",
        cards=[_card(trial, view, at) for view in trial.views],
        sample=trial.sample,
        label=None if trial.sample.label is None else trial.bench.classes[trial.sample.label],
        settings=describe(trial.settings),
        moment=_moment(trial, at),
        progress=min(1.0, at / last),
    )


def empty_scene(title: str, text: str) -> str:
    """What stands there while there is nothing to see."""
    return rendered("empty.html", title=title, text=text)


def describe(settings: Settings) -> str:
    """``apgd-margin, L-infinity up to 8/255, 20 steps``"""
    where = "" if settings.region == "everywhere" else f" on the {settings.region.value}"
    steps = f"{settings.steps} step{'s' if settings.steps != 1 else ''}"
    return f"{settings.attack}, {NORMS[settings.norm]} up to {epsilon_text(settings.epsilon)}{where}, {steps}"


def spoken(trial: Trial) -> str:
    """What a screen reader is told: the newest frame of every system in a sentence."""
    parts = []
    for view in trial.views:
        frame = view.at(None)
        if frame is None:
            parts.append(f"{view.arm.title}: {view.note}")
            continue
        verdict, _ = _verdict(trial, view, frame)
        parts.append(f"{view.arm.title}: {verdict}, {_says(trial, frame)}.{_cause(view, frame)}")
    done = any(view.finished for view in trial.views)
    return f"{'The attack is over' if done else 'Not attacked yet'}. {' '.join(parts)}"


def _moment(trial: Trial, at: int) -> str:
    frames = [frame for view in trial.views if (frame := view.at(at)) is not None]
    if not frames:
        return "Nothing to see"
    if any(frame.phase == Phase.RESULT for frame in frames):
        return "Result: the strongest point that was visited"
    latest = max(frame.number for frame in frames)
    if latest == 0:
        return "Clean image"
    before, second = unseen(trial.settings), second_start(trial.settings)
    if latest == 1:
        return f"Start, after {before} steps in larger balls" if before else "Random start"
    if latest == second:
        return "Start of the second phase"
    taken, of = (number - 1 - (second is not None and number > second) for number in (latest, num_points(trial.settings) - 1))
    return f"Step {before + taken} of {before + of}"


def _card(trial: Trial, view: View, at: int) -> Card:
    frame = view.at(at)
    if frame is None:
        return Card(view=view)
    verdict, tone = _verdict(trial, view, frame)
    return Card(
        view=view,
        verdict=verdict,
        tone=tone,
        says=_says(trial, frame),
        pictures=_pictures(trial, view, frame),
        bars=_bars(trial, view, frame),
        charts=_charts(trial, view, at),
        paths=_paths(frame) if frame.phase != Phase.CLEAN else (),
        cause=_cause(view, frame),
    )


def _verdict(trial: Trial, view: View, frame: Frame) -> tuple[str, str]:
    if view.frames[0].misclassified:
        return "Wrong without attack", "neutral"
    unknown = trial.sample.label is None
    if frame.misclassified:
        return ("Answer changed" if unknown else "Fooled"), "bad"
    if frame.phase == Phase.CLEAN:
        return ("Its answer" if unknown else "Right"), "good"
    return ("Answer holds" if unknown else "Still right"), "good"


def _says(trial: Trial, frame: Frame) -> str:
    return f"says {trial.bench.classes[frame.prediction]} ({100 * float(frame.probabilities[frame.prediction]):.0f} %)"


def _cause(view: View, frame: Frame) -> str:
    if frame.phase != Phase.RESULT or view.attribution is None or view.attribution == Attribution.LOST_CLEAN:
        return ""
    return f" Lost {LOST[view.attribution]}."


def _pictures(trial: Trial, view: View, frame: Frame) -> tuple[Picture, ...]:
    clean, name = view.frames[0], trial.sample.name
    change, factor = magnified_change(trial, view, frame)
    times = f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}"
    pictures = [
        Picture.of("image", as_bytes(frame.image), f"{name} as this system gets it"),
        Picture.of(
            f"change \N{MULTIPLICATION SIGN}{times}" if frame.phase != Phase.CLEAN else "no change",
            change,
            "What the attack changed, magnified; grey is no change",
        ),
    ]
    if view.arm.source == MaskSource.NONE:
        return tuple(pictures)
    now = "mask now" if view.follows_image else "mask, fixed"
    return (
        *pictures,
        Picture.of("mask before", grey(clean.mask), "Mask of the clean image; white is let through"),
        Picture.of(now, grey(frame.mask), f"Mask now; overlap {frame.mask_iou:.2f}"),
    )


def magnified_change(trial: Trial, view: View, frame: Frame) -> tuple[UInt8[np.ndarray, "height width 3"], float]:
    """The change from the clean image, grey where there is none, and by how much it is magnified: black and white are a change by
    epsilon, or in another than the maximum norm by the largest change that there is."""
    change = frame.image - view.frames[0].image
    limit = trial.settings.epsilon if trial.settings.norm == "linf" else float(change.abs().max())
    factor = 0.5 / limit if limit else 1.0
    return as_bytes(0.5 + factor * change), factor


def grey(mask: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """A mask in [0,1]: white is let through."""
    return as_bytes(mask[None])[..., 0]


def _bars(trial: Trial, view: View, frame: Frame) -> tuple[Bar, ...]:
    """The label first, then the classes that were most likely in any frame."""
    assert view.label is not None
    largest = [max(float(one.probabilities[index]) for one in view.frames) for index in range(len(trial.bench.classes))]
    others = sorted((index for index in range(len(largest)) if index != view.label), key=lambda index: (-largest[index], index))
    return tuple(
        Bar(
            name=trial.bench.classes[index],
            share=float(frame.probabilities[index]),
            clean=float(view.frames[0].probabilities[index]),
            is_label=index == view.label,
            is_prediction=index == frame.prediction,
        )
        for index in [view.label, *others][:BARS]
    )


def _charts(trial: Trial, view: View, at: int) -> tuple[Chart, ...]:
    until, frames = num_points(trial.settings), view.frames
    now = min(at, len(frames) - 1)
    margins = [frame.margin for frame in frames]
    series = [("attacked image", "whole", margins)]
    if view.follows_image:
        series.append(("pixels alone", "pixels", [float(frame.pixels_margin or 0) for frame in frames]))
        series.append(("mask alone", "mask", [float(frame.mask_margin or 0) for frame in frames]))
    everywhere = [
        value for one in trial.views for frame in one.frames for value in (frame.margin, frame.pixels_margin, frame.mask_margin)
    ]
    shown = [
        chart(
            "Margin",
            f"Margin over the attack: {margins[0]:.2f} clean, {margins[now]:.2f} now; above 0 is misclassified.",
            series,
            until=until,
            now=now,
            bounds=around_zero(value for value in everywhere if value is not None),
            height=120,
            has_zero=True,
        )
    ]
    if view.arm.source != MaskSource.NONE:
        overlaps = [frame.mask_iou for frame in frames]
        against = "true outline" if trial.sample.mask is not None else "clean mask"
        shown.append(
            chart(
                f"Mask overlap (IoU) with the {against}",
                f"Overlap of the mask with the {against}: {overlaps[0]:.2f} clean, {overlaps[now]:.2f} now.",
                [("overlap", "whole", overlaps)],
                until=until,
                now=now,
                bounds=(0.0, 1.0),
                height=64,
                has_zero=False,
            )
        )
    return tuple(shown)


def _paths(frame: Frame) -> tuple[tuple[str, float], ...]:
    both = (("pixels alone", frame.pixels_margin), ("mask alone", frame.mask_margin))
    return tuple((name, margin) for name, margin in both if margin is not None)
