"""The command: what it refuses before it serves."""

import importlib.util
import socket
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.lab.lab import MISSING

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="foreguard[lab] is not there")


def test_without_gradio_it_is_one_line_with_the_remedy(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["lab", f"run={runs / 'classifier'}"]) == 2
    assert capsys.readouterr().err == f"foreguard: {MISSING}\n"


@needs_gradio
def test_a_run_that_is_not_there_a_port_that_is_taken_and_a_foreign_address_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={runs / 'classifier'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = {
            (f"run={tmp_path / 'none'}",): "no such run",
            (run, f"port={port}"): f"port: {port} of 127.0.0.1 is in use; say another one, or port=0",
            (run, "host=192.0.2.1"): "host, port: cannot listen at 192.0.2.1",
            (run, "port=70000"): "port: ",
        }
        for words, expected in said.items():
            assert main(["lab", *words, "browser=false"]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert expected in error
