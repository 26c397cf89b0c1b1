"""The command: what it refuses before it serves, and how it ends."""

import asyncio
import importlib.util
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

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
def test_a_run_without_a_system_a_port_that_is_taken_and_a_foreign_address_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={runs / 'classifier'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = {
            (f"run={tmp_path / 'none'}",): "no such run",
            (f"run={tmp_path}",): "holds no trained classifier",
            (f"run={runs / 'segmenter'}",): "this is a checkpoint of a segmenter, expected one of a classifier",
            (run, f"segmenter_run={tmp_path}"): "holds no trained segmenter",
            (run, f"segmenter_{run}"): "this is a checkpoint of a classifier, expected one of a segmenter",
            (run, f"prepared={tmp_path / 'none'}"): "no such directory",
            (run, f"port={port}"): f"port: {port} of 127.0.0.1 is in use; say another one, or port=0",
            (run, "host=192.0.2.1"): "host: '192.0.2.1' is no address of this machine; the default",
            (run, "host=1.2.3.4.5"): "host: '1.2.3.4.5' is no address of this machine; the default",
            (run, "port=70000"): "port: ",
        }
        for words, expected in said.items():
            assert main(["lab", "port=0", *words, "browser=false"]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert expected in error


@needs_gradio
def test_interrupted_it_is_over_before_its_port_is_given_back_and_says_nothing_of_a_visitor(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from pipeline.lab.server import listening, serve

    async def never_done(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        visited.set()
        await asyncio.sleep(3600)

    def interrupt() -> None:
        visited.wait()
        os.kill(os.getpid(), signal.SIGINT)

    visited = threading.Event()
    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background has it ignored
    try:
        with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as visitor:
            visitor.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with pytest.raises(KeyboardInterrupt):
                serve(never_done, listener)
            assert [thread for thread in threading.enumerate() if thread.name == "lab"] == []
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")
