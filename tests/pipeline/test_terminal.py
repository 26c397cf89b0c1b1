"""What is printed for people: in columns, in color only where it is wanted, and harmless."""

import io

import pytest

from pipeline.terminal import aligned, colored, wants_color


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),  # https://no-color.org: an empty one says nothing
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_color_is_for_terminals_that_want_it(stream: io.StringIO, variables: dict[str, str], wanted: bool) -> None:
    assert wants_color(stream, variables) is wanted


def test_text_is_plain_where_nobody_sees_color(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert colored("ready", "good", io.StringIO()) == "ready"
    assert colored("ready", "good", Terminal()) == "\x1b[32mready\x1b[0m"


def test_columns_stand_below_each_other_whatever_the_color(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("state", "run"), ("finished", "one"), ("damaged", "two\x1b[31m")]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = aligned(rows, {"finished": "good"})
    assert plain == ["state     run", "finished  one", "damaged   two\\x1b[31m"]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = aligned(rows, {"finished": "good"})
    assert shown[1] == "\x1b[32mfinished\x1b[0m  one"
    assert shown[2] == plain[2]
