"""What is seen, to hand on: one HTML file that opens offline, and a GIF of the attack."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.config import to_plain
from pipeline.data.preview import fitting
from pipeline.evaluation.examples import as_bytes
from pipeline.lab.frames import Frame
from pipeline.lab.scene import describe, grey, magnified_change, rendered, scene, spoken, style
from pipeline.lab.trial import Trial, View
from pipeline.masks.config import MaskSource
from pipeline.runs.provenance import provenance

PAGE, ANIMATION = "attack.html", "attack.gif"
TILE, GAP, LINE = 144, 8, 20
"""Pixels of the animation: side of a picture, gaps, height of a line of text."""
FRAME_MS, LAST_MS = 140, 2000
_PAPER, _INK, _QUIET, _GOOD, _BAD = "#ffffff", "#1b1e24", "#565d67", "#00674b", "#a5281b"


def write_snapshot(trial: Trial, directory: Path) -> tuple[Path, Path]:
    """Write the page and the animation into a directory and return their paths. Raises OSError."""
    moving = animation(trial)
    page, gif = directory / PAGE, directory / ANIMATION
    page.write_text(snapshot(trial, moving), encoding="utf-8")
    gif.write_bytes(moving)
    return page, gif


def snapshot(trial: Trial, moving: bytes) -> str:
    """The page: the newest frame of the trial, its animation, and the lines of Python that make the attack again."""
    made = provenance()
    shown = [view.arm for view in trial.views if view.frames]
    return rendered(
        "snapshot.html",
        style=style(follows_system=True),
        scene=scene(trial),
        title=f"{trial.sample.name}: {describe(trial.settings)}",
        spoken=spoken(trial),
        moving="data:image/gif;base64," + base64.b64encode(moving).decode(),
        systems=[(arm.title, arm.detail, arm.chosen.classifier_run.resolve().name) for arm in shown],
        program=program(trial),
        made=f"foreguard {made.foreguard}, torch {made.torch}",
    )


def program(trial: Trial) -> str:
    """How ``pipeline.attack`` is called to come to the same image."""
    settings = trial.settings
    region = f', region="{settings.region.value}"' if settings.region != "everywhere" else ""
    masks = ", masks=masks" if trial.sample.mask is not None else ""
    call = f"attack(system, images, labels, spec, epsilon={settings.epsilon!r}{masks}, threat=threat, seed={settings.seed})"
    threat = f'threat = ThreatModel(norm="{settings.norm}"{region})'
    values = {name: value for name, value in to_plain(settings.spec).items() if name != "kind" and value is not None}
    spec = f"spec = {type(settings.spec).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
    return "\n".join((spec, threat, f"adversarial = {call}"))


def animation(trial: Trial) -> bytes:
    """A GIF with a picture for every frame: a row for every system, with image, change, mask before and now."""
    views = [view for view in trial.views if view.frames]
    pictures = [_drawn(trial, views, at) for at in range(trial.num_frames)]
    shared = pictures[-1].quantize(255)  # one palette for all: colors do not flicker
    frames = [one.quantize(palette=shared, dither=Image.Dither.NONE) for one in pictures]
    content = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
    return content.getvalue()


def _drawn(trial: Trial, views: list[View], at: int) -> Image.Image:
    row = LINE * 2 + TILE + GAP
    canvas = Image.new("RGB", (4 * TILE + 5 * GAP, LINE + GAP + row * len(views)), _PAPER)
    draw, font, room = ImageDraw.Draw(canvas), ImageFont.load_default(13), canvas.width - 2 * GAP
    draw.text((GAP, 5), fitting(f"{describe(trial.settings)}   {at + 1}/{trial.num_frames}", font, room), _QUIET, font)
    for number, view in enumerate(views):
        frame, top = view.at(at), LINE + GAP + row * number
        assert frame is not None
        said = trial.bench.classes[frame.prediction]
        draw.text((GAP, top), fitting(f"{view.arm.title}, {view.arm.detail}", font, room), _INK, font)
        verdict = f"says {said}, margin {frame.margin:+.2f}"
        draw.text((GAP, top + LINE - 3), fitting(verdict, font, room), _BAD if frame.misclassified else _GOOD, font)
        for position, tile in enumerate(_tiles(trial, view, frame)):
            canvas.paste(tile, (GAP + position * (TILE + GAP), top + 2 * LINE))
    return canvas


def _tiles(trial: Trial, view: View, frame: Frame) -> list[Image.Image]:
    clean = view.frames[0]
    arrays = [as_bytes(frame.image), magnified_change(trial, view, frame)[0]]
    if view.arm.source != MaskSource.NONE:
        arrays += [grey(clean.mask), grey(frame.mask)]
    return [Image.fromarray(array).convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST) for array in arrays]
