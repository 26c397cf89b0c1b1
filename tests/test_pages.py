"""What README and docs show is what happens: commands are accepted, blocks run, links lead somewhere.

A block of shell or Python is run as it stands on the page, but for its size. One that cannot be says so in the page's source, in a
comment above it: ``<!-- not run: needs SLURM -->``; the slow tests list all of these. ``<!-- given: classifier, loader -->`` names
what a reader has.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.commands import COMMANDS
from pipeline.cli.composition import check_overrides, load_config
from pipeline.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "examples/README.md")]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if "zoo" not in path.parts)  # there lie cards that an export wrote
RUN = ["README.md", "docs/get-started.md"]
"""Pages whose runs others may use: they come first."""

_BLOCK = re.compile(r"^(?P<marks>(?:<!-- .*? -->\n)*)```(?P<language>sh|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:foreguard|-m pipeline) (?P<words>(?:'[^']*'|\"[^\"]*\"|[^;&|'\"\n])*)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code of a page."""

    place: str
    language: str
    code: str
    not_run: str | None
    given: tuple[str, ...]

    def commands(self) -> list[list[str]]:
        """The words behind each ``foreguard`` of a block of shell, with its variables in them."""
        text, variables = re.sub(r"\\\n\s*|(?:(?<=\s)|^)#.*", "", self.code, flags=re.MULTILINE), {}
        for name, value in re.findall(r"\b([A-Z])=(\"[^\"]*\"|\S+)", text):
            variables[name] = value.strip('"')
        for _ in range(2):  # a variable may hold another
            text = re.sub(r"\$([A-Z])\b", lambda found: variables[found[1]], text)
        text = re.sub(r"\$\(sha256sum[^)]*\)", "0" * 64, text)
        return [shlex.split(found["words"]) for found in _COMMAND.finditer(text)]


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of shell and Python of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        marks = dict(re.findall(r"<!-- (not run|given): (.*?) -->", found["marks"]))
        yield Block(
            place=f"{page.relative_to(ROOT)}:{line}",
            language=found["language"],
            code=found["code"],
            not_run=marks.get("not run"),
            given=tuple(re.split(r", ", marks["given"])) if "given" in marks else (),
        )


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
SKIPPED = [block for block in BLOCKS if block.not_run]
SHOWN = {"my-signs": ["experiment=quickstart"], "mine": ["experiment=quickstart"]}
SHOWN |= {"photos": ["experiment=coco-small", "data.root=photos", "degradation=null"]}
"""Experiments that a page has its reader write, and what of ours takes the same keys."""


def test_the_pages_have_blocks_that_are_run_and_every_other_one_says_why_not() -> None:
    assert {"README.md", "docs/get-started.md", "docs/tutorials/own-images.md", "docs/tutorials/own-model.md"} <= {
        block.place.rpartition(":")[0] for block in BLOCKS if not block.not_run
    }
    assert all(len(block.not_run or "a reason") > 5 for block in BLOCKS)
    fences = sum(len(re.findall(r"^```(?:sh|python)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) for page in PAGES)
    assert fences == len(BLOCKS)


@pytest.mark.parametrize("block", [block for block in SHELL if block.commands()], ids=lambda block: block.place)
def test_every_command_on_a_page_is_one_that_is_accepted(block: Block) -> None:
    for name, *words in block.commands():
        if name.startswith("--") or name == "completion":
            continue
        config_class = COMMANDS[name].config_class()
        words = COMMANDS[name].words(words)
        shown = [one for word in words for one in SHOWN.get(word.removeprefix("experiment="), [word])]
        behind = zip(shown, ["", *shown], strict=False)
        overrides = [word for word, before in behind if not word.startswith("--") and before != "--config-dir"]
        if "--multirun" in shown:
            check_overrides(config_class, overrides, sweep=True)
        elif "--help" not in shown:
            load_config(name, config_class, overrides)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=lambda block: block.place)
def test_every_program_on_a_page_is_python(block: Block) -> None:
    compile(block.code, block.place, "exec")


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_its_heading(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not anchor or path.suffix != ".md" or anchor in headings(path), f"{target}#{anchor}"


SMALL = {
    "prepare": ["workers=0"],
    "train-segmenter": ["trainer.epochs=1"],
    "train-classifier": ["trainer.epochs=1"],
    "train-joint": ["trainer.epochs=1"],
    "evaluate": ["max_images=3", "attack=quickstart", "attack.threat.epsilons=[2/255]"],
    "new": [],
    "ablate": [
        "segmenter_trainer.epochs=1",
        "classifier_trainer.epochs=1",
        "attack=quickstart",
        "evaluation.sanity=null",
        "workers=0",
        "seeds=[0]",
    ],
    "list": [],
    "compare": [],
    "report": [],
    "predict": [],
    "export": [],
}
"""What makes a command of a page small. A page that runs another command needs a line here, or says that it is not run."""


def small(name: str, words: list[str]) -> list[str]:
    more = [*SMALL[name]]
    if name == "prepare" and "data=synthetic" in words:
        more += ["data.num_train=64", "data.num_val=16", "data.num_test=16", "data.num_classes=2"]
    if "objective=adversarial" in words:
        more += ["objective.attack.num_steps=1", "objective.validation.max_images=8"]
    changed = {word.partition("=")[0] for word in more}
    return [name, *(word for word in words if word.partition("=")[0] not in changed), *more]


def own_photographs(folder: Path) -> None:
    """What a labelling tool has exported: 24 photographs of two classes with their masks."""
    noise = np.random.default_rng(0)
    for index in range(24):
        label, (top, left) = ("cup", "plate")[index % 2], noise.integers(0, 40, 2)
        image, mask = noise.integers(0, 255, (80, 80, 3), np.uint8), np.zeros((80, 80), np.uint8)
        mask[top : top + 32, left : left + 32] = 255
        image[mask > 0] = (200, 40, 40) if label == "cup" else (40, 40, 200)
        for kind, picture in (("images", image), ("masks", mask)):
            (folder / kind / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / label / f"IMG_{index:04}.png")


def given_to_readers() -> dict[str, Any]:
    """Models and images of a reader's own, the smallest that are some."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    segmenter = nn.Conv2d(3, 1, 1)
    return {"images": images, "labels": labels, "loader": [(images, labels)], "classifier": classifier, "segmenter": segmenter}


@pytest.mark.slow
def test_the_blocks_of_the_pages_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one directory, as a reader would who reads on; a command that several pages have in common is run once."""
    monkeypatch.chdir(tmp_path)
    own_photographs(tmp_path / "photos")
    done: set[str] = set()
    to_run = [block for block in BLOCKS if not block.not_run]
    for block in sorted(to_run, key=lambda block: block.place.rpartition(":")[0] not in RUN):
        if block.language == "python":
            names = given_to_readers()
            exec(compile(block.code, block.place, "exec"), {name: names[name] for name in block.given})
            continue
        rest = [line for line in re.sub(r"\\\n\s*", "", block.code).splitlines() if line and line[0] != "#"]
        assert [line for line in rest if not line.startswith("foreguard ")] == [], f"{block.place}: what else is to be run?"
        for words in block.commands():
            if (command := shlex.join(words)) not in done:
                assert main(small(words[0], words[1:])) == 0, f"{block.place}: {command}"
                done.add(command)
    assert (tmp_path / "runs" / "photos-first" / "report" / "index.html").is_file()
    assert (tmp_path / "exports" / "photos" / "system.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: block.place)
def test_a_block_that_is_not_run(block: Block) -> None:
    pytest.skip(f"{block.place}: {block.not_run}")
