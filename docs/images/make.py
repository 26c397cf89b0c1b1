"""The pictures of the site that are made by a program: the diagram, an attack step by step, the tour of a report.

python docs/images/make.py [RUN]    RUN: a finished `foreguard ablate experiment=quickstart`; without one the diagram alone

The same run gives the same pictures, but for what another version of Chromium or its fonts draws of a report.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

HERE = Path(__file__).parent
ARM = "natural classifier, masks oracle to learned natural segmenter, seed 0"
SHOWN = {0: "clean", 1: "random start", 11: "step 10", 31: "step 30", 61: "step 60", 101: "step 100"}
"""Points of the attack that are drawn."""
EPSILON = "8/255"

# Colors of the diagram: ink, lines, what is ours, what the attacker has, paper of the boxes.
THEMES = {
    "light": ("#1b1e24", "#6b7280", "#4051b5", "#b3261e", "#f3f4f6"),
    "dark": ("#e8eaee", "#9aa1ad", "#8fa0ff", "#ff8a80", "#23272f"),
}
# x, width, title, text below it, drawn as a stage
BOXES = (
    (10, 120, "image", "pixels in [0,1]", False),
    (170, 130, "segmenter", "U-Net", True),
    (340, 120, "mask", "foreground, [0,1]", False),
    (500, 130, "gate and fill", "background to gray", True),
    (670, 130, "classifier", "ResNet", True),
    (840, 120, "class", "logits", False),
)

# Section of a report -> the elements that numbers are drawn at, and how many pixels from their left edge.
TOUR: dict[str, list[tuple[str, int]]] = {
    "answer": [("#answer .trust.trusted", -27), ("#answer .trust.trusted + p", -27)],
    "systems": [
        ("#systems tbody:first-of-type tr.group + tr th", 44),
        ("#systems thead th:nth-child(3)", 8),
        ("#systems thead th:nth-child(5)", 8),
        ("#systems thead th:last-child", 62),
    ],
    "robustness": [],
    "gallery": [],
}
STYLE = """
main > section:not(#SECTION), header, footer, nav, #systems details { display: none !important }
#answer .failures, #answer .reading, .filters, .card:not([data-system="2"]) { display: none !important }
.card[data-system="2"] ~ .card[data-system="2"] ~ .card[data-system="2"] { display: none !important }
body { margin: 0; padding: 8px 8px 8px 30px }
"""
BADGE = """
SELECTOR { position: relative }
SELECTOR::after {
  content: "NUMBER"; position: absolute; left: LEFTpx; top: 4px; width: 24px; height: 24px; border-radius: 12px;
  background: #b3261e; color: #fff; font: 700 15px/24px sans-serif; text-align: center
}
"""


def diagram(theme: str) -> str:
    """The system, and where the attack runs, as an SVG file."""
    ink, line, ours, theirs, paper = THEMES[theme]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 970 210" role="img" font-family="sans-serif">',
        "<title>The two-stage system under attack</title>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="context-stroke"/></marker></defs>',
    ]
    for x, width, title, below, stage in BOXES:
        middle, color = x + width / 2, ours if stage else line
        look = f'fill="{paper}" stroke="{color}" stroke-width="{2 if stage else 1}"'
        parts += [
            f'<rect x="{x}" y="70" width="{width}" height="60" rx="8" {look}/>',
            f'<text x="{middle}" y="97" text-anchor="middle" font-size="17" font-weight="600" fill="{ink}">{title}</text>',
            f'<text x="{middle}" y="118" text-anchor="middle" font-size="13" fill="{line}">{below}</text>',
        ]
    for (x, width, *_), (end, *_) in pairwise(BOXES):
        parts.append(
            f'<path d="M{x + width + 3},100 H{end - 3}" fill="none" stroke="{ink}" stroke-width="1.6" marker-end="url(#end)"/>'
        )
    parts += [
        f'<path d="M70,70 V28 H565 V67" fill="none" stroke="{ink}" stroke-width="1.6" marker-end="url(#end)"/>',
        f'<text x="317" y="20" text-anchor="middle" font-size="13" fill="{line}">the image itself, seen through the mask</text>',
    ]
    dashed = f'fill="none" stroke="{theirs}" stroke-width="1.8" stroke-dasharray="5 4" marker-end="url(#end)"'
    parts += [
        f'<path d="M900,133 V180 H70 V134" {dashed}/>',
        f'<path d="M400,180 V134" {dashed}/>',
        f'<text x="650" y="200" text-anchor="middle" font-size="13" fill="{theirs}">'
        "the attack: gradients back through both stages, to every pixel within epsilon</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def attack_steps(run: Path) -> bytes:
    """One image of the run's test split under attack, as a PNG: image, change, mask at each step, and the attacker's margin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from pipeline import attack, load_system
    from pipeline.data.dataset import open_prepared
    from pipeline.data.loader import read_rows

    system = load_system(str(run), arm=ARM)
    prepared = open_prepared(Path(json.loads((run / "ablation.json").read_text(encoding="utf-8"))["prepared"]))
    batch = read_rows(prepared, prepared.indices("test")[:30])
    right = system(batch.images).argmax(1) == batch.labels
    points: list[torch.Tensor] = []
    margins: list[torch.Tensor] = []

    def look(images: torch.Tensor, margin: torch.Tensor) -> None:
        points.append(images.clone())
        margins.append(margin.clone())

    attack(system, batch.images, batch.labels, "pgd-margin", epsilon=EPSILON, observer=look)
    with torch.no_grad():
        moved = (system.masks(points[-1]) - system.masks(batch.images)).abs().sum((1, 2, 3))
    turned = right & (torch.stack(margins)[11] < 0) & (margins[-1] > 0)  # neither at once nor never
    row = int(moved.where(turned, torch.tensor(-1.0)).argmax())  # of these the one whose mask moves most
    clean = batch.images[row]

    figure = plt.figure(figsize=(9.6, 6.2), dpi=100, layout="constrained")
    grid = figure.add_gridspec(4, len(SHOWN), height_ratios=[1, 1, 1, 0.9])
    for column, (step, name) in enumerate(SHOWN.items()):
        image = points[step][row]
        with torch.no_grad():
            mask = system.masks(image[None])[0, 0]
        change = 0.5 + (image - clean) * 255 / 16
        for line, (title, picture) in enumerate({"image": image, "change x 16": change, "mask": mask}.items()):
            axis = figure.add_subplot(grid[line, column])
            axis.imshow(
                np.asarray(picture.permute(1, 2, 0) if picture.ndim == 3 else picture).clip(0, 1), cmap="gray", vmin=0, vmax=1
            )
            axis.set(xticks=[], yticks=[])
            if line == 0:
                axis.set_title(name, fontsize=11)
            if column == 0:
                axis.set_ylabel(title, fontsize=11)
    axis = figure.add_subplot(grid[3, :])
    axis.plot([float(margin[row]) for margin in margins], color="#b3261e", marker=".")
    axis.axhline(0, color="#6b7280", linewidth=0.8)
    axis.set_xlabel(f"points that the attack asked about (100 steps of PGD on the margin, linf {EPSILON})")
    axis.set_ylabel("margin\n(above 0: fooled)")
    axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    plt.close(figure)
    return stream.getvalue()


def screenshot(page: str, width: int) -> Image.Image:
    """What headless Chromium draws of a page, without the empty space below."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on this machine")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(page, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000"]
        light = "--blink-settings=preferredColorScheme=1"
        places = [f"--window-size={width},2400", f"--screenshot={folder}/page.png", f"--user-data-dir={folder}/profile"]
        subprocess.run([chromium, *flags, light, *places, f"file://{folder}/page.html"], check=True, capture_output=True)
        with Image.open(f"{folder}/page.png") as picture:
            drawn = picture.convert("RGB")
    paper = Image.new("RGB", drawn.size, drawn.getpixel((2, drawn.height - 2)))
    box = ImageChops.difference(drawn, paper).getbbox() or (0, 0, *drawn.size)
    return drawn.crop((0, 0, drawn.width, min(drawn.height, box[3] + 8)))


def main(words: list[str]) -> None:
    """Write the pictures beside this file."""
    for theme in THEMES:
        (HERE / f"system-{theme}.svg").write_text(diagram(theme), encoding="utf-8")
    if not words:
        return
    run = Path(words[0])
    with Image.open(io.BytesIO(attack_steps(run))) as picture:
        picture.convert("RGB").quantize(128).save(HERE / "attack.png", optimize=True)
    report = (run / "report" / "index.html").read_text(encoding="utf-8").replace('loading="lazy"', "")
    for section, selectors in TOUR.items():
        badges = [
            BADGE.replace("SELECTOR", selector).replace("NUMBER", str(number)).replace("LEFT", str(left))
            for number, (selector, left) in enumerate(selectors, 1)
        ]
        style = f"<style>{STYLE.replace('SECTION', section)}{''.join(badges)}</style>"
        screenshot(report.replace("</head>", f"{style}</head>"), 960).quantize(64).save(
            HERE / f"report-{section}.png", optimize=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
