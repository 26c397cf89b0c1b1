"""The pages that nobody writes: every command's keys, the public API, the example programs and the notebook."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pipeline
from pipeline.cli.commands import COMMANDS, Command
from pipeline.cli.groups import group_choices, groups_of
from pipeline.cli.help import composed_defaults
from pipeline.cli.keys import Alternative, Key, described_keys


def generated_pages(root: Path) -> Iterator[tuple[str, str]]:
    """Each generated page: its place in the site, and its text."""
    yield "reference/api.md", api_page()
    yield "reference/commands/index.md", commands_page()
    for name, command in COMMANDS.items():
        yield f"reference/commands/{name}.md", command_page(name, command)
    for path in sorted((root / "examples").glob("*.py")):
        yield f"examples/{path.stem}.md", f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
    for path in sorted((root / "examples").glob("*.ipynb")):
        yield f"examples/{path.stem}.md", notebook_page(json.loads(path.read_text(encoding="utf-8")))


def api_page() -> str:
    """The public names, by mkdocstrings from their docstrings, and what they return."""
    lines = [
        "# Python",
        "",
        "Everything that `from pipeline import ...` offers. Images are float tensors (B,3,H,W) in [0,1], channels red, green,",
        "blue, not normalized; masks (B,1,H,W) in [0,1]; an epsilon is a share of the pixel range, `8/255`, never 8.",
        "Whole programs: [examples](../examples/index.md).",
        "",
    ]
    evaluation = get_type_hints(pipeline.evaluate)["return"]
    returned = [evaluation, get_type_hints(evaluation.clean_accuracy)["return"], get_type_hints(pipeline.predict)["return"]]
    for shown in [*(getattr(pipeline, name) for name in pipeline.__all__), *returned]:
        lines += [f"::: {shown.__module__}.{shown.__qualname__}", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """All commands in one table."""
    rows = [f"| [`{name}`]({name}.md) | {command.summary} |" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            *("# Commands", "", "`foreguard COMMAND key=value ...`; `foreguard COMMAND --help` prints what these pages say.", ""),
            *("| command | what |", "|---|---|", *rows, ""),
        ]
    )


def command_page(name: str, command: Command) -> str:
    """Every key of a command, as ``foreguard COMMAND --help`` has them."""
    config_class = command.config_class()
    lines = [f"# {name}", "", f"`foreguard {name}`: {command.summary}.", "", "```sh", command.example, "```", ""]
    if groups := groups_of(config_class):
        lines += ["## Choices", "", "Files in `configs/`; each may be followed by single keys.", ""]
        for group in groups:
            lines += [f"`{group}=`", f":   {', '.join(f'`{choice}`' for choice in group_choices(group))}", ""]
    lines += ["## Keys", ""]
    for entry in described_keys(config_class, composed_defaults(name, config_class)):
        lines += _alternative(entry) if isinstance(entry, Alternative) else _key(entry)
    return "\n".join(lines)


def _alternative(entry: Alternative) -> list[str]:
    return [f"**`{entry.key}`: `{entry.tag}`** {_plain(entry.meaning)}", ""]


def _key(entry: Key) -> list[str]:
    kind = f" *{_plain(entry.kind.replace('|', ' | '))}*" if entry.kind else ""
    default = {"": "", "required": ", required"}.get(entry.default, f", default `{entry.default.removeprefix('default ')}`")
    lines = [f"`{entry.name}`{kind}{default if entry.kind else ''}", f":   {_plain(entry.meaning)}", ""]
    lines += [f"    - `{choice}`: {_plain(does)}" for choice, does in entry.choices]
    return [*lines, ""]


def _plain(text: str) -> str:
    """Text in which nothing is Markdown."""
    for sign in "\\`*_[]<>#|":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook one below the other, with the outputs that are kept in it."""
    lines: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        lines += [source, ""] if cell["cell_type"] == "markdown" else [f"```python\n{source}\n```", ""]
        for output in cell.get("outputs", ()):
            lines += [*_output(output), ""]
    return "\n".join(lines)


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        picture = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
        yield f'<img alt="What the cell above drew" src="data:image/png;base64,{picture}">'
    else:
        yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
