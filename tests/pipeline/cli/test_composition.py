"""Words become a configuration: paths verbatim, mappings whole, everything that cannot be in one line."""

import os
import unicodedata
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.composition import load_config, quoted
from pipeline.data.config import PrepareConfig
from pipeline.errors import ConfigError, printable

COCO = ["data=coco", "data.root=somewhere"]


def prepared(word: str) -> Path:
    return load_config("prepare", PrepareConfig, [f"prepared={word}"]).prepared


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_a_quoted_value_is_read_verbatim_by_hydras_grammar(text: str) -> None:
    assert OverridesParser.create().parse_overrides([f"key={quoted(text)}"])[0].value() == text


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a[1]",
            "a,b",
            "{a:b}",
            "a b",
            "a=b",
            "it's",
            'say "x"',
            "a\\b",
            "ends\\",
            "(a)",
            "#a",
            "100%",
            "a:b",
            "$HOME",
            "in~side",
        ),
        *(unicodedata.normalize(form, "Prüfung/größe") for form in ("NFC", "NFD")),
        *("null/x", "1e3", "true", "-x", "日本", "*"),
    ],
)
def test_a_path_is_taken_verbatim(name: str) -> None:
    assert str(prepared(name)) == name


def test_quotes_around_a_path_are_not_part_of_it() -> None:
    assert prepared("'a b'") == prepared('"a b"') == Path("a b")


def test_a_path_may_refer_to_another_key() -> None:
    assert prepared("sets/${data.source}") == Path("sets/synthetic")
    with pytest.raises(ConfigError, match=r"'a' not found.*; say \\\$\{\.\.\.\} where these letters are meant$"):
        prepared("${a} b")
    assert prepared(r"\${a} b") == Path("${a} b")


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepared("~/set") == tmp_path / "set"
    assert prepared("~") == tmp_path
    with pytest.raises(ConfigError, match=r"^prepared: there is no user nobody-of-that-name; .* \./~nobody-of-that-name/x"):
        prepared("~nobody-of-that-name/x")


def test_parents_are_followed_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is above a link is above what it points to, and a directory that is not there is no way around another's rules."""
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    monkeypatch.chdir(tmp_path / "here")
    assert prepared("missing/../full") == Path("full")
    assert prepared("link/../set") == tmp_path / "elsewhere" / "set"
    assert prepared("../set") == tmp_path / "set"
    assert prepared(f"{tmp_path}/here/missing/../full") == tmp_path / "here" / "full"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("''", "is empty"),
        ("n" * 5000, "is too long: up to 255 bytes a part"),
        ("/".join(["n" * 200] * 30), "is too long: .*4095 in all"),
        ("ü" * 200, "is too long"),
    ],
)
def test_what_is_no_name_of_a_file_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^prepared: the name of a file or directory {message}") as caught:
        prepared(name)
    assert len(str(caught.value)) < 500


def test_a_whole_mapping_takes_the_place_of_the_one_that_was_there() -> None:
    only = load_config("prepare", PrepareConfig, [*COCO, "data.classes={cup:[cup]}"])
    assert dict(only.data.classes) == {"cup": ("cup",)}
    more = load_config("prepare", PrepareConfig, [*COCO, "data.classes.cup=[cup]"])
    assert len(more.data.classes) > 5
    assert more.data.classes["cup"] == ("cup",)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.num_train=99999999999999999999", "data.num_train: .*less than or equal to 10000000"),
        ("data.num_train=" + "9" * 400, "data.num_train: .*less than or equal to 10000000"),
        ("data.num_train=" + "9" * 5000, "'data.num_train=9+\\.\\.\\. .* cannot be read"),
        ("data.num_train=true", "data.num_train: a number is meant"),
        ("data.light=.inf", "data.light: .*"),
        ("data.light=inf", "data.light: .*finite"),
        ("data.light=nan", "data.light: .*finite"),
        ("data.light=1e999999999/2", "data.light: .*is not a fraction"),
        ("data.light=" + "9" * 1000 + "/3", "data.light: .*is not a fraction"),
        ("data.seed=" + "[" * 3000, "'data.seed=.* cannot be read"),
        ("data.seed=${data.seed}", "data.seed: [Rr]ecursive"),
        ("data.seed=${data.nope}", "data.seed: Interpolation key 'data.nope' not found; say .* are meant$"),
        ("prepared=${oc.env:NOBODY_SETS_IT}", "prepared: .*Environment variable 'NOBODY_SETS_IT' not found.*; say .* are meant$"),
        ("prepared=out/${", ".*out/.*; say .* are meant$"),
        ("data.seed=\x1b[31m3", "'data.seed=\\\\x1b\\[31m3' holds control characters"),
        ("prepared=a\nb", "'prepared=a\\\\nb' holds control characters"),
        ("prepared=\udcff", "'prepared=\\\\udcff' holds control characters or bytes that are no text"),
        ("n" * 5000 + "=1", "n+\\.\\.\\. \\(5000 characters\\): unknown key"),
        ("data=" + "n" * 5000, "data=n+\\.\\.\\. \\(5000 characters\\): unknown choice"),
        ("n" * 5000, "'n+\\.\\.\\. .* is not of the form key=value"),
        ("=1", ".*unknown key"),
    ],
)
def test_what_cannot_be_is_one_short_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        load_config("prepare", PrepareConfig, [word])
    assert printable(str(caught.value)) == str(caught.value)
    assert len(str(caught.value)) < 1000


@given(st.text())
def test_what_is_printed_moves_no_cursor_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in shown)
    assert printable(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text
    assert os.linesep not in shown
