"""A file of ours is read as it was written, or refused in one line with the remedy."""

import json
import os
from dataclasses import dataclass
from typing import ClassVar

import pytest

from pipeline.errors import CheckpointError, RunError, UserError
from pipeline.runs.files import JsonFile, canonical_sha256, read_bytes, write_atomically


@dataclass(frozen=True, kw_only=True)
class Note(JsonFile):
    REMEDY: ClassVar[str] = "write it again"

    text: str
    numbers: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Claim(Note):
    FORMAT: ClassVar[int] = 2
    ERROR: ClassVar[type[UserError]] = CheckpointError


NOTE = Note(text="two\nlines, \u00fc", numbers=(0.1, 1e-300, float("inf")))


@pytest.fixture
def path(tmp_path):
    NOTE.write(tmp_path / "deep" / "note.json")
    return tmp_path / "deep" / "note.json"


def test_a_file_is_read_as_it_was_written(path):
    assert Note.read(path) == NOTE
    assert json.loads(path.read_text())["format"] == 1


def sealed(**content):
    return json.dumps(content | {"checksum": canonical_sha256(content)}).encode()


DAMAGES = {
    "empty": (b"", "no JSON: "),
    "other JSON": (b"[]", "holds no mapping"),
    "null": (b"null", "holds no mapping"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "deep inside": (b'{"text": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
    "latin-1": (b'{"text": "\xfc"}', "no UTF-8 text: invalid start byte at byte 10"),
    "UTF-16": ('{"text": "x"}'.encode("utf-16"), "no UTF-8 text: "),
    "long number": (b'{"text": ' + b"9" * 5_000 + b"}", "no JSON: "),
    "binary": (bytes(range(256)), "no UTF-8 text: "),
    "no checksum": (b'{"format": 1, "text": "", "numbers": []}', "its checksum differs"),
    "another type": (sealed(format=1, text=3, numbers=[]), "text: input should be a valid string"),
    "a key too many": (sealed(format=1, text="", numbers=[], other=1), "other: unexpected"),
    "another version": (sealed(format=7, text="", numbers=[]), "format 7 is not format 1 of this version"),
    "a version that is no number": (sealed(format=[1], text="", numbers=[]), "is not format 1 of this version"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_such_file_is_one_line_with_the_remedy(path, damage):
    content, line = DAMAGES[damage]
    path.write_bytes(content)
    with pytest.raises(RunError) as raised:
        Note.read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert line in message
    assert message.endswith("; write it again")
    assert "\n" not in message


def test_no_cut_and_no_flipped_bit_goes_unnoticed(path):
    whole = path.read_bytes()
    unnoticed = []
    for place in range(len(whole)):
        flipped = [whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :] for bit in range(8)]
        for content in (whole[:place], *flipped):
            path.write_bytes(content)
            try:
                read = Note.read(path)
            except RunError:
                continue
            if read != NOTE:
                unnoticed.append(content)
    assert unnoticed == []


def test_the_errors_of_a_format_are_its_own(path):
    with pytest.raises(CheckpointError, match="format 1 is not format 2 of this version; write it again"):
        Claim.read(path)


def in_another_process(action):
    """Its exit code."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_two_processes_may_write_a_file_at_once(tmp_path, monkeypatch):
    """The other one writes all of it between this one's writing and renaming."""
    path, replacing = tmp_path / "note.json", os.replace

    def other():
        os.replace = replacing
        write_atomically(path, b"the other's")
        os._exit(0)

    def replace_later(source, target):
        assert in_another_process(other) == 0
        assert path.read_bytes() == b"the other's"
        replacing(source, target)

    monkeypatch.setattr(os, "replace", replace_later)
    write_atomically(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_had_begun_to_write_is_removed_by_the_next_that_writes_the_file(tmp_path):
    path = tmp_path / "note.json"

    def killed():
        os.replace = lambda *_: os._exit(9)
        write_atomically(path, b"half")

    assert in_another_process(killed) == 9
    (left_over,) = tmp_path.iterdir()
    assert left_over.read_bytes() == b"half"
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(RunError, match=r"cannot be read: it is no file$"):
            Note.read(place)
    with pytest.raises(RunError, match=r"none: cannot be read: No such file or directory$"):
        Note.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("Robust", "robust"),
        ("robsut/run.json", "robust"),
        ("robust-2/checkpoints/best.json", "robust"),
        ("robust/checkpoint/best.json", "robust/checkpoints"),
        ("robust/checkpoints/best.json", None),
        ("robust/nothing alike/best.json", None),
        ("zzzz", None),
    ],
)
def test_a_directory_that_is_not_there_is_answered_with_the_one_of_nearly_that_name(tmp_path, path, meant):
    (tmp_path / "robust" / "checkpoints").mkdir(parents=True)
    (tmp_path / "robusta").write_text("a file")
    with pytest.raises(RunError, match=rf"directory{'$' if meant is None else rf'; did you mean {tmp_path / meant}[?]$'}"):
        read_bytes(tmp_path / path)
