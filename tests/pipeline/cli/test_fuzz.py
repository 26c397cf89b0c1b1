"""Malformed calls of every command: each is one line that names what is wrong, exit code 2, and nothing begins.

Three kinds: a wrong value at every key that there is, by the key's own type and range; fragments of grammars that are no word
of ours; random text. Counted are tracebacks, calls that do not come to an end, and calls that would have begun.
"""

import random
import signal
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli.main import COMMANDS, Command, main
from pipeline.config import adapter_of
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


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What is said about a call that must be refused; the call is in the message of whatever goes wrong."""

    def endless(*_: object) -> None:
        raise AssertionError(f"no end: {words!r:.300}")

    previous = signal.signal(signal.SIGALRM, endless)
    signal.alarm(ENDLESS_S)
    try:
        code = main(words)
    except Exception as error:
        raise AssertionError(f"a traceback: {words!r:.300}") from error
    finally:
        signal.alarm(0)
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


@pytest.mark.slow
def test_a_wrong_value_at_any_key_is_refused_and_the_key_is_named(begun: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    drawn = random.Random(0).sample(cases(), 1500)
    assert {name for name, _, _ in drawn} == set(COMMANDS)
    for name, key, value in drawn:
        line = refused(capsys, [name, *COMMANDS[name].example.split()[2:], f"{key}={value}"])
        # Where another choice has the key, the line names the part of it that this one does not have.
        named = key if key in line else ".".join(key.split(".")[:2])
        assert named in line, f"{key} is not named for {value!r:.100}: {line}"
    assert begun == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_fragments_of_other_grammars_are_refused(name: str, begun: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    for fragment in FRAGMENTS:
        refused(capsys, [name, *COMMANDS[name].example.split()[2:], fragment])
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
    refused(capsys, [name, *COMMANDS[name].example.split()[2:], f"{key}={value}"])
    assert begun == []
