"""The site: complete, without a dead link, without the network."""

import os
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from pipeline.cli.commands import COMMANDS
from pipeline.config import dotted_keys

pytest.importorskip("zensical")
ROOT = Path(__file__).parents[1]
Load = Callable[[Path], ModuleType]


@pytest.fixture(scope="module")
def build(load_file: Load) -> ModuleType:
    return load_file(ROOT / "docs" / "site" / "build.py")


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_every_key(name: str) -> None:
    config_class = COMMANDS[name].config_class()
    page = sys.modules["generated"].command_page(name, COMMANDS[name])
    shown = set(re.findall(r"^`([a-z_0-9.A-Z]+)`", page, flags=re.MULTILINE)) | set(
        re.findall(r"^\*\*`([^`]+)`:", page, flags=re.MULTILINE)
    )
    known = {key.replace("*", "NAME") for key in dotted_keys(config_class)}
    missing = {key for key in known if not any(one == key or one.startswith(f"{key}.") for one in shown)}
    assert {key.rpartition(".")[2] for key in missing} <= {"kind", "name", "source", "NAME"}, missing  # what chooses an alternative
    written_out = {one for one in shown if "NAME" not in one.split(".")}
    assert written_out <= known | {key.rpartition(".")[0] for key in known}


def test_a_page_that_stands_nowhere_in_the_navigation_is_told(build: ModuleType) -> None:
    nav = [{"Home": "index.md"}, {"How to": ["data.md", "*"]}, {"Decisions": ["adr/*"]}, {"Results": ["results/*"]}]
    pages = {"index.md", "data.md", "adr/0001.md", "lab.md", "results/zoo/signs/index.md"}
    assert build.navigation(nav, pages) == [
        *[{"Home": "index.md"}, {"How to": ["data.md", "lab.md"]}, {"Decisions": ["adr/0001.md"]}],
        {"Results": [{"zoo:signs": "results/zoo/signs/index.md"}]},
    ]
    with pytest.raises(build.DeadLinkError, match=r"elsewhere/new\.md stands nowhere in nav"):
        build.navigation(nav, {*pages, "elsewhere/new.md"})
    with pytest.raises(build.DeadLinkError, match=r"nav names data\.md, which is no page"):
        build.navigation(nav, pages - {"data.md"})


def test_links_of_the_repository_become_links_of_the_site_and_code_is_left_alone(build: ModuleType) -> None:
    places = {
        "docs/results/README.md": "results/index.md",
        "benchmarks/README.md": "benchmarks/index.md",
        "docs/data.md": "data.md",
    }
    text = "[a](../../benchmarks/README.md#fast) [b](../data.md) [c](https://x.org) `[d](e)`\n```python\nf[g](h)\n```\n"
    expected = text.replace("../../benchmarks/README.md", "../benchmarks/index.md")
    assert build.relinked(text, "docs/results/README.md", places) == expected
    with pytest.raises(build.DeadLinkError, match=r"docs/data\.md: a link to gone\.md, which is no page"):
        build.relinked("[a](gone.md)", "docs/data.md", places)


def test_every_link_between_pages_of_the_repository_leads_to_a_page_of_the_site(build: ModuleType, tmp_path: Path) -> None:
    assert (build.stage(tmp_path).parent / "pages" / "results" / "index.md").is_file()  # raises DeadLinkError where one does not


class Page(HTMLParser):
    """What a page of the site loads, links to, and can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.classes |= set(found.get("class", "").split())
        if tag == "a" and "href" in found:
            self.linked.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href", ""))
        if "src" in found:
            self.loaded.append(found["src"])


@pytest.fixture(scope="module")
def site(build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs")
    assert build.main(target) == 0
    return target / "site"


@pytest.mark.slow
def test_no_link_is_dead_and_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 40
    remote, dead = [], []
    for path, page in pages.items():
        remote += [f"{path.name}: {one}" for one in page.loaded if re.match(r"(https?:)?//", one)]
        assert not {"mermaid", "arithmatex"} & page.classes  # their scripts are fetched
        for link in page.linked + [one for one in page.loaded if not one.startswith("data:")]:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":
                continue
            place = Path(os.path.normpath(path.parent / unquote(target))) if target else path
            if not place.exists() or (anchor and place in pages and unquote(anchor) not in pages[place].anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert remote == []
    assert dead == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.slow
def test_the_public_api_is_on_its_page_with_examples(site: Path) -> None:
    import pipeline

    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    page = Page(text)
    for name in pipeline.__all__:
        assert f"{getattr(pipeline, name).__module__}.{name}" in page.anchors
    assert text.count("&gt;&gt;&gt;") + text.count('class="gp"') > len(pipeline.__all__)
