"""``make docs``: stage every page, make the generated ones, build strictly into build/docs/site. A mistake is exit code 1."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from generated import generated_pages

ROOT = Path(__file__).resolve().parents[2]
ASSETS = (".svg", ".png", ".gif", ".css", ".js")
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")
"""Pages that lie beside docs/."""
_CODE = re.compile(r"(^(?P<fence>`{3,}).*?^(?P=fence)$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


class DeadLinkError(Exception):
    """A link to what is no page of the site."""


def staged_places() -> dict[str, str]:
    """Where each file of the repository stands in the site: path below ROOT to path below its pages."""
    docs = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in (".md", *ASSETS)]
    examples = [
        path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "examples").glob("*.*")) if path.suffix in (".py", ".ipynb")
    ]
    places = {path: path.removeprefix("docs/").replace("README.md", "index.md") for path in [*docs, *OUTSIDE]}
    return places | {path: f"{path.rpartition('.')[0]}.md" for path in examples}


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The Markdown with ``change`` made to all that is no code."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def relinked(text: str, source: str, places: dict[str, str]) -> str:
    """The page with its links leading to where their targets stand in the site. Raises DeadLinkError."""

    def one(found: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), found["target"]))
        if target not in places:
            raise DeadLinkError(f"{source}: a link to {found['target']}, which is no page of the site")
        return os.path.relpath(places[target], os.path.dirname(places[source]) or ".") + (found["anchor"] or "")

    return outside_code(text, lambda part: _LINK.sub(one, part))


def navigation(nav: list[Any], pages: set[str]) -> list[Any]:
    """The navigation with the pages that stand nowhere in it in place of the stars, and none left out."""
    named = {entry for entry in _entries(nav) if "*" not in entry}
    if missing := named - pages:
        raise DeadLinkError(f"docs/mkdocs.yml: nav names {', '.join(sorted(missing))}, which is no page")
    left = pages - named

    def expanded(entries: list[Any]) -> list[Any]:
        found: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                found += [{title: expanded(below) if isinstance(below, list) else below} for title, below in entry.items()]
            elif "*" in entry:
                matched = sorted(page for page in left if fnmatch.fnmatch(page, entry) and (entry != "*" or "/" not in page))
                left.difference_update(matched)
                # The card of a system of the zoo is headed by the directory that it was made in.
                found += [{f"zoo:{page.split('/')[2]}": page} if page.startswith("results/zoo/") else page for page in matched]
            else:
                found.append(entry)
        return found

    whole = expanded(nav)
    if left:
        raise DeadLinkError(f"docs/mkdocs.yml: {', '.join(sorted(left))} stands nowhere in nav")
    return whole


def _entries(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else _entries(below)


def stage(target: Path) -> Path:
    """Write all pages and the configuration below ``target``; return the configuration's path. Raises DeadLinkError."""
    shutil.rmtree(target, ignore_errors=True)
    pages, places = target / "pages", staged_places()
    for source, place in places.items():
        (pages / place).parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            (pages / place).write_text(relinked((ROOT / source).read_text(encoding="utf-8"), source, places), encoding="utf-8")
        elif source.endswith(ASSETS):
            shutil.copyfile(ROOT / source, pages / place)
    for place, text in generated_pages(ROOT):
        (pages / place).parent.mkdir(parents=True, exist_ok=True)
        (pages / place).write_text(text, encoding="utf-8")
    config = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8").replace("REPOSITORY", str(ROOT)))
    config["nav"] = navigation(config["nav"], {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")})
    (target / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target / "mkdocs.yml"


def main(target: Path) -> int:
    """Build the site below ``target``; the exit code."""
    try:
        config = stage(target)
    except DeadLinkError as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    code = subprocess.run(command, cwd=target, check=False).returncode
    if code == 0:
        print(f"site: {target / 'site' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build" / "docs"))
