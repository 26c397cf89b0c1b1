"""The page: well-formed, self-contained, readable without eyes, and deaf to what data would like to tell a browser."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.masks.config import MaskSource
from pipeline.reporting.commands import report
from pipeline.reporting.config import ReportConfig
from pipeline.reporting.panel import INK, LOOKS

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes and text, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self._inside: list[list[str]] = []
        self.feed(text)
        self.close()
        if self._open:
            self.problems.append(f"never closed: {self._open}")

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        if len(names) != len(set(names)):
            self.problems.append(f"<{tag}> names an attribute twice")
        words: list[str] = []
        self.elements.append((tag, dict(attributes), words))
        if tag not in VOID:
            self._open.append(tag)
            self._inside.append(words)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1:]}")
            return
        self._open.pop()
        self._inside.pop()

    def handle_data(self, data):
        for words in self._inside:
            words.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(words)) for name, attributes, words in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(reported) -> str:
    return (reported / "index.html").read_text()


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_the_page_is_well_formed_and_its_anchors_are_unique_and_lead_somewhere(page):
    assert page.problems == []
    identifiers = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes, _ in page.elements:
        for name in ("aria-labelledby", "href"):
            for target in (attributes.get(name) or "").split():
                assert target.removeprefix("#") in identifiers


def test_the_page_loads_nothing_and_runs_nothing(page, text):
    """No address but pictures inside the page, and a policy that would stop everything else."""
    assert "http:" not in text
    assert "https:" not in text
    for tag, attributes, _ in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert (attributes.get("href") or "#").startswith("#")
    assert re.findall(r"url\((.)", text.split("</head>")[1]) == ["#"] * text.split("</head>")[1].count("url(")
    policy = next(attributes["content"] for attributes, _ in page.all("meta") if attributes.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_class_names_are_text_wherever_they_stand(page, text):
    assert "<script" not in text
    shown = [words for attributes, words in page.all("li") if "data-outcome" in attributes]
    assert any("<script>alert(1)</script>" in words for words in shown)
    assert any("<script>alert(1)</script>" in (attributes["alt"] or "") for attributes, _ in page.all("img"))


def test_names_from_the_run_are_text_too(simulated, tmp_path):
    hostile = '"><img src=x onerror=alert(1)></style><script>alert(1)</script> $\\frac{1}{0}$ & <i>'
    arms = [(hostile, hostile, *arm[2:]) for arm in simulated.ARMS[2:3]]
    run = simulated.write_ablation(tmp_path / "run", num_images=20, seeds=(0,), arms=arms, experiment=hostile, with_gallery=False)
    report(ReportConfig(run=run))
    page = Page((run / "report" / "index.html").read_text())
    assert page.problems == []
    assert page.all("h1")[0][1] == hostile
    assert any(hostile in words for _, words in page.all("svg"))
    assert not {"script", "i", "img"} & {tag for tag, _, _ in page.elements}
    assert all(path.name.isascii() and "<" not in path.name for path in (run / "report").rglob("*"))


def test_a_screen_reader_finds_language_headings_captions_and_descriptions(page):
    assert page.all("html")[0][0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(words.strip() for _, words in page.all("caption"))
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes, _ in page.all("th"))
    assert all(attributes["alt"] for attributes, _ in page.all("img"))
    for attributes, _ in page.all("svg"):
        assert attributes["aria-hidden"] == "true"
    described = [attributes for _, attributes, _ in page.elements if attributes.get("role") == "img"]
    assert len(described) == len(page.all("svg")) > 3
    assert all(len(attributes["aria-label"] or "") > 40 for attributes in described)


def test_the_sections_come_in_the_order_of_the_question(page):
    headings = [words for _, words in page.all("h2")]
    assert headings == [
        "Does the mask make it harder to fool?",
        "All systems",
        "Accuracy as the attack grows stronger",
        "What the attack does to the mask",
        "How much of the image the mask lets through",
        "How good must the mask be?",
        "Which class suffers most?",
        "Can its confidence be relied on?",
        "Why does the oracle help?",
        "Where did the robustness go?",
        "What does the outline alone give away?",
        "Single images",
        "To quote this",
        "How this was made",
        "Glossary",
    ]


def test_a_failed_check_stands_right_under_the_answer(page, text):
    assert text.index("Failed sanity checks") < text.index("How to read this") < text.index('id="systems"')
    failure = next(words for _, words in page.all("li") if words.startswith("FAIL"))
    assert "Square against white-box" in failure
    assert "put square into the suite" in failure
    assert "seed 0" in failure
    assert "seed 1" in failure


def test_every_outcome_and_system_of_the_gallery_has_its_filter(page, text):
    assert '<li class="card"' in text
    filters = {attributes["id"] for attributes, _ in page.all("input")}
    cards = [attributes for attributes, _ in page.all("li") if "data-outcome" in attributes]
    assert {f"outcome-{card['data-outcome']}" for card in cards} == {one for one in filters if one.startswith("outcome-")} - {
        "outcome-all"
    }
    assert {f"system-{card['data-system']}" for card in cards} == {one for one in filters if one.startswith("system-")} - {
        "system-all"
    }
    for one in filters - {"outcome-all", "system-all"}:
        assert f"#{one}:checked" in text


def test_what_a_run_lacks_is_said_with_the_remedy(simulated, tmp_path):
    path = tmp_path / "alone"
    import numpy as np

    difficulty = np.random.default_rng(0).normal(size=30)
    simulated.write_evaluation(path, simulated.ARMS[10], seed=0, number=1, difficulty=difficulty)
    report(ReportConfig(run=path))
    page = Page((path / "report" / "index.html").read_text())
    missing = " ".join(words for attributes, words in page.all("p") if attributes.get("class") == "missing")
    for remedy in (
        "foreguard ablate",
        "sanity=true",
        "test: learned",
        "degradation",
        "decomposition",
        "silhouette=true",
        "gallery_images=6",
    ):
        assert remedy in missing


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    values = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_no_two_mask_sources_are_drawn_alike():
    assert set(LOOKS) == {source.value for source in MaskSource}
    assert len({look.color for look in LOOKS.values()}) == len({look[1:] for look in LOOKS.values()}) == len(LOOKS)


def test_text_and_figures_have_contrast_in_both_themes():
    """4.5 for text (WCAG 1.4.3), 3 for lines and symbols (1.4.11)."""
    import pipeline.reporting

    style = (Path(pipeline.reporting.__file__).parent / "templates" / "style.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in style.split("@media")[:2])
    dark = {name: dark[name] for name in light}
    assert {f"mask-{name}": look.color for name, look in LOOKS.items()} == {
        name: light[name] for name in light if name.startswith("mask-")
    }
    assert {name: light[name] for name in INK} == INK
    for theme in (light, dark):
        for ground in ("paper", "ground", "note-ground", "bad-ground"):
            assert contrast(theme["ink"], theme[ground]) >= 7
            assert contrast(theme["muted"], theme[ground]) >= 4.5
        for name in ("link", "good", "bad"):
            assert contrast(theme[name], theme["paper"]) >= 4.5
        assert contrast(theme["bad"], theme["bad-ground"]) >= 4.5
        for name in theme:
            if name.startswith("mask-"):
                assert contrast(theme[name], theme["paper"]) >= 3
