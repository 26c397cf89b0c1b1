"""Malformed calls of every command: each is one line that names what is wrong, exit code 2, and nothing begins.

Three kinds: a wrong value at every key that there is, by the key's own type and range; fragments of grammars that are no word
of ours; random text. Counted are tracebacks, calls that do not come to an end, and calls that would have begun.
"""

import copy
import random
import shlex
import signal
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pipeline.cli.commands import COMMANDS, Command
from pipeline.cli.composition import compose
from pipeline.cli.groups import group_names
from pipeline.cli.main import main
from pipeline.config import adapter_of
from pipeline.errors import ConfigError
from pipeline.schema import schema_variants

ENDLESS_S = 120
"""No call of these takes a second; one that takes so long does not end."""
FRAGMENTS = [
    *("=", "==", "a", "-", "--", "--x", "-x", "{", "}", "[", "]", "(", ")", ",", ":", "#", "$", "${", "${}", "''", '""'),
    *("", " ", "\\", "a=[", "a={", "a='", 'a="', "a=(b", "a=b)", "a=$", "a=${", "a=${x", "a=${x}"),
    *("a=${oc.env:NO_SUCH_VARIABLE}", "a=${oc.env}", "~", "~a", "~=", "~a=b", "+", "++", "+a", "+=1", "++=1", "+++a=1"),
    *("a@b=c", "a@=c", "@a=b", "@=", "a.b.=1", ".a=1", "a..b=1", "..=1", "a=!!python/object/apply:os.system [true]"),
    *("a: 1", "- a", "a=*x", "a=&x 1", "<<: *a", "%YAML 1.2", "a=|", "a=>", "? a", "---", "...", "\x1b[31mred"),
    *("a=\x1b[2J", "\x1b]0;title\x07=1", "a=\u202egnp.exe", "\u202e=1", "\udcff", "a=\udcff", "\ud800=1", "a\n=1"),
    *("a\tb=1", "a\r=1", "a=\x00", "\x00", "a\x7f=1", "\u2028=1", "\ufeff=1", "\u0430=1", "\uff41=1", "\xb2=1"),
    *("a\u0301=1", "\U0001f600=1", "9" * 5000, "n" * 5000, "n" * 5000 + "=1", "=" * 5000, "[" * 5000),
    *("a=" + "[" * 500 + "]" * 500, "a=" + "(" * 500, "a=" + "\\" * 4999, "data=[a,b]", "data=../../x"),
    *("data=/etc/passwd", "data=null", "data=", "data=~", "data={}", "data=1,2", "attack=nattack=nattack=n", "trainer=()"),
    *("hydra.run.dir=x", "hydra/launcher=basic", "hydra.sweep.dir=x", "hydra=x", "--config-dir=x", "--config-path=/"),
    *("--cfg=job", "-cd=x", "--multirun=x", "--info", "--hydra-help", "--experimental-rerun=x", "__init__=1"),
    *("__class__=1", "_target_=os.system", "a._target_=b", "data=true", "data=[]"),
]
NUMBERS = [
    *("x", "nan", ".nan", "inf", "-inf", ".inf", "1e400", "-1e400", "true", "[1]", "{a:1}", "'8/0'", "8/", "0x"),
    *("9" * 400, "''", "null/1"),
]
WRONG = {
    "integer": [*NUMBERS, "1.5", "99999999999999999999", "-99999999999999999999"],
    "number": [*NUMBERS, "1e300", "-1e300"],
    "boolean": ["maybe", "2", "[true]", "1.5", "''", "{}"],
    "path": ["", "  ", "''", "n" * 5000, "a\x00b", "a\nb", "\udcff", "~nobody-of-that-name/x", "/".join(["n" * 200] * 30)],
    "enum": ["no-such-choice", "1", "[a]", "''", "n" * 5000, "true"],
    "array": ["3", "x", "{a:1}", "true", "[[[[1]]]]", "[nan]", "['\ufffd']"],
    "object": ["3", "x", "[1]", "true", "nan"],
}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations with which a command would have begun its work."""
    configurations: list[Any] = []
    monkeypatch.setattr(Command, "call", lambda _, config: configurations.append(config))
    return configurations


@pytest.fixture
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra reads the files of a command once, and lays the values of each call over a copy: nine tenths of a call is reading."""
    whole = hydra.compose
    of_files = cache(lambda name, words: whole(name, overrides=list(words)))

    def composed(config_name: str, overrides: list[str]) -> DictConfig:
        own = len(example_words(config_name))
        if not all(word.startswith("++") for word in overrides[own:]):
            return whole(config_name, overrides=overrides)
        config = copy.deepcopy(of_files(config_name, tuple(overrides[:own])))
        for override in OverridesParser.create().parse_overrides(overrides[own:]):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
        return config

    monkeypatch.setattr(hydra, "compose", composed)


@cache
def example_words(name: str) -> list[str]:
    """A call of a command that is right."""
    return COMMANDS[name].words(shlex.split(COMMANDS[name].example)[2:])


class Endless(BaseException):
    """Nobody catches it."""


def refused(capsys: pytest.CaptureFixture[str], words: list[str], endless_s: float = ENDLESS_S) -> str:
    """What is said about a call that must be refused; the call is in the message of whatever goes wrong."""

    def endless(*_: object) -> None:
        raise Endless

    previous = signal.signal(signal.SIGALRM, endless)
    signal.setitimer(signal.ITIMER_REAL, endless_s)
    try:
        code = main(words)
    except Endless as error:
        raise AssertionError(f"no end: {words!r:.300}") from error
    except Exception as error:
        raise AssertionError(f"a traceback: {words!r:.300}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), f"accepted: {words!r:.300}"
    line = captured.err.removesuffix("\n")
    assert line.startswith("foreguard: ")
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in line), (
        f"{line!r} for {words!r:.300}"
    )
    assert len(line) < 2000, f"{len(line)} letters for {words!r:.300}"
    return line


def leaves(node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key of a schema that has a value of its own, with the alternatives of its value."""
    for variant in schema_variants(node, definitions):
        for name, child in variant.get("properties", {}).items():
            variants = schema_variants(child, definitions)
            if any("properties" in one for one in variants):
                yield from leaves(child, definitions, f"{prefix}{name}.")
            elif "const" not in child:
                yield from ((f"{prefix}{name}", one) for one in variants if one.get("type") != "null")


def wrong_values(node: Mapping[str, Any]) -> list[str]:
    if "enum" in node:
        return WRONG["enum"]
    if node.get("format") == "path":
        return WRONG["path"]
    beyond = [f"{node[name] + by}" for name, by in (("minimum", -1), ("ge", -1), ("maximum", 1), ("le", 1)) if name in node]
    beyond += [f"{node[name]}" for name in ("exclusiveMinimum", "gt", "exclusiveMaximum", "lt") if name in node]
    return WRONG.get(str(node.get("type")), []) + beyond


def cases() -> list[tuple[str, str, str]]:
    """Command, key, wrong value."""
    found = []
    for name, command in COMMANDS.items():
        schema = adapter_of(command.config_class()).json_schema()
        found += [(name, key, value) for key, node in leaves(schema, schema.get("$defs", {})) for value in wrong_values(node)]
    return found


def raising(_: Command, config: Any) -> None:
    raise KeyError(config)


def hanging(*_: Any) -> None:
    time.sleep(ENDLESS_S)


def refusing(*_: Any) -> None:
    raise ConfigError("two\nlines")


@pytest.mark.parametrize(
    ("command", "counted"),
    [(lambda *_: None, "accepted: "), (raising, "a traceback: "), (hanging, "no end: "), (refusing, None)],
)
def test_what_is_counted_is_noticed(capsys, monkeypatch, command: Callable[..., None], counted: str | None) -> None:
    """With commands that begin, fail, hang or refuse in place of ours, and a call that is right."""
    monkeypatch.setattr(Command, "call", command)
    if counted is None:
        assert refused(capsys, ["doctor"]) == r"foreguard: two\nlines"
    else:
        with pytest.raises(AssertionError, match=counted):
            refused(capsys, ["doctor"], endless_s=0.5 if command is hanging else ENDLESS_S)


def names_the_key(line: str, key: str) -> bool:
    """Where another choice has the key, the line names the part of it that this one does not have."""
    return key in line or ".".join(key.split(".")[:2]) in line


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, str, str]]:
    return random.Random(0).sample(cases(), 1500)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_composed_once_is_what_a_whole_call_composes(name: str, request: pytest.FixtureRequest) -> None:
    config_class = COMMANDS[name].config_class()
    schema = adapter_of(config_class).json_schema()
    key = next(key for key, _ in leaves(schema, schema.get("$defs", {})) if key not in group_names())
    words = [*example_words(name), f"{key}=7"]
    whole = compose(name, config_class, words)
    request.getfixturevalue("composed_once")
    assert compose(name, config_class, words) == whole


@pytest.mark.slow
@pytest.mark.usefixtures("composed_once")
def test_a_wrong_value_at_any_key_is_refused_and_the_key_is_named(drawn, begun, capsys) -> None:
    for name, key, value in drawn:
        line = refused(capsys, [name, *example_words(name), f"{key}={value}"])
        assert names_the_key(line, key), f"{key} is not named for {value!r:.100}: {line}"
    assert begun == []


@pytest.mark.slow
def test_a_wrong_value_is_refused_as_well_by_a_whole_call(drawn, begun, capsys) -> None:
    """Of every command some, with all that a user's call goes through."""
    whole = [case for name in COMMANDS for case in [one for one in drawn if one[0] == name][:20]]
    assert len(whole) >= 150
    assert {name for name, _, _ in whole} == set(COMMANDS)
    for name, key, value in whole:
        line = refused(capsys, [name, *example_words(name), f"{key}={value}"])
        assert names_the_key(line, key), f"{key} is not named for {value!r:.100}: {line}"
    assert begun == []


@pytest.mark.slow
@pytest.mark.usefixtures("composed_once")
@pytest.mark.parametrize("name", COMMANDS)
def test_fragments_of_other_grammars_are_refused(name: str, begun, capsys) -> None:
    for fragment in FRAGMENTS:
        refused(capsys, [name, *example_words(name), fragment])
    assert begun == []


@pytest.mark.slow
def test_what_is_no_command_is_refused(begun: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    for fragment in FRAGMENTS:
        refused(capsys, [fragment])
    assert begun == []


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(COMMANDS)), st.text(max_size=30), st.text(max_size=30))
def test_random_text_is_refused(begun: list[Any], capsys: pytest.CaptureFixture[str], name: str, key: str, value: str) -> None:
    refused(capsys, [name, *example_words(name), f"{key}={value}"])
    assert begun == []
