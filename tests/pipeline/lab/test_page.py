"""The page in a real Chromium, served as the command serves it. Skips where there is no Chromium or no Gradio."""

import base64
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.lab.bench import open_bench
from pipeline.lab.config import Settings

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of the driver, at the end
]
PATIENCE_MS = 300_000
"""Of the browser: long, so that a busy machine fails no test."""
OVER = "document.querySelector('#lab-status').innerText.includes('The attack is over')"
UNNAMED = """() => [...document.querySelectorAll("input, button, select, textarea, img, [role=img]")]
  .filter(one => one.offsetParent !== null && !one.closest("[aria-hidden=true]"))
  .filter(one => !(one.ariaLabel || one.alt || one.innerText || one.title))
  .filter(one => ![...(one.labels || [])].some(label => label.innerText.trim()))
  .map(one => one.outerHTML.slice(0, 160))"""

SERVER = """
import sys
from pipeline.cli.main import main

def watch(event, arguments):
    place = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else None
    place = arguments[0] if event == "socket.getaddrinfo" else place
    if place not in (None, "127.0.0.1", "localhost", "::1"):
        print(f"left this machine: {event} {place}", file=sys.stderr, flush=True)

sys.addaudithook(watch)
sys.exit(main(sys.argv[1:]))
"""
"""The command, and a line for every address elsewhere that it connects to and every name that it looks up."""


@dataclass
class Served:
    """A laboratory on a run that is being trained, until somebody finishes it."""

    where: str
    run: Path
    finished: Path
    """The run whose checkpoint it will get."""

    def finish(self) -> None:
        if not (self.run / "checkpoints").exists():
            (self.run / "checkpoints").symlink_to(self.finished / "checkpoints")


@pytest.fixture(scope="module")
def served(
    runs: Path, synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory, begin: Callable[[Path, str], Path]
) -> Iterator[Served]:
    """It begins, serves, and is ended with Ctrl-C: exit code 130, one line, no file left, nobody else spoken to."""
    pytest.importorskip("gradio")
    run, temporary = begin(runs / "training", "train-classifier"), tmp_path_factory.mktemp("temporary")
    words = ["lab", f"run={run}", f"prepared={synthetic_set}", "port=0", "browser=false", "accelerator=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(temporary), "GRADIO_SHARE": "True"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline()
        assert said.startswith("laboratory: http://127.0.0.1:"), process.stderr.read()
        yield Served(where=said.split()[1], run=run, finished=runs / "classifier")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == "foreguard: interrupted by Ctrl-C and the page is closed\n"
    assert [path for path in temporary.iterdir() if path.name.startswith("foreguard-lab-")] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=PATIENCE_MS)
        yield chromium
        chromium.close()


class Visit:
    """A page, what it asked for and what it complained about."""

    def __init__(self, browser: Any, where: str, *, width: int = 1280, dark: bool = False) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        self.page.set_default_timeout(PATIENCE_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(where)
        self.page.wait_for_selector(".lab-card, .lab-empty")

    def of_a_finished_run(self, served: Served) -> "Visit":
        served.finish()
        if self.page.locator(".lab-empty").count():
            self.page.click("#lab-again")
            self.page.wait_for_selector(".lab-card")
        return self

    def status(self) -> str:
        return str(self.page.inner_text("#lab-status"))

    def wait_for_status(self, text: str) -> None:
        self.page.wait_for_function("text => document.querySelector('#lab-status').innerText.includes(text)", arg=text)

    def pictures(self, card: int) -> list[np.ndarray]:
        uris = self.page.eval_on_selector_all(f".lab-card:nth-child({card}) img", "found => found.map(one => one.src)")
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]


def test_a_run_that_is_being_trained_says_so_in_the_page_and_is_taken_up_when_it_is_there(served: Served, browser: Any) -> None:
    visit = Visit(browser, served.where)
    assert "is being trained, and has no checkpoint yet; look again" in visit.status()
    assert "Nothing to attack yet" in visit.page.inner_text("#lab-stage")
    visit.page.click("#lab-attack")
    visit.wait_for_status("Not possible.")
    served.finish()
    visit.page.click("#lab-again")
    visit.wait_for_status("This training is not finished")
    visit.page.wait_for_selector(".lab-card:nth-child(3)")
    visit.page.close()


def test_with_the_keyboard_alone_an_attack_is_run_and_its_last_frame_is_that_of_the_library(
    served: Served, synthetic_set: Path, browser: Any
) -> None:
    visit = Visit(browser, served.where).of_a_finished_run(served)
    assert visit.page.inner_text(".lab-moment").startswith("Clean image")
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.id === 'lab-attack'"):
            break
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function(OVER)
    bench = open_bench(served.finished, prepared=synthetic_set, segmenter_run=None, device=torch.device("cpu"))
    sample, spec = bench.test_image(0), Settings().spec
    for card, arm in enumerate(bench.arms, start=1):
        expected = pipeline.attack(bench.system(arm), sample.image, torch.tensor([sample.label]), spec, masks=sample.mask)
        visit.page.wait_for_function("document.querySelector('.lab-moment').innerText.includes('Result')")
        assert np.array_equal(visit.pictures(card)[0], (expected[0] * 255).round().byte().permute(1, 2, 0).numpy())
    moment = visit.page.locator("#lab-moment input[type=range]")
    moment.focus()
    for _ in range(22):
        visit.page.keyboard.press("ArrowLeft")
    visit.page.wait_for_function("document.querySelector('.lab-moment').innerText.includes('Clean image')")
    assert np.array_equal(visit.pictures(1)[0], (sample.image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_it_fits_follows_the_theme_names_everything_and_asks_nobody_else(
    served: Served, browser: Any, width: int, dark: bool
) -> None:
    visit = Visit(browser, served.where, width=width, dark=dark).of_a_finished_run(served)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "() => [...document.querySelectorAll('.lab *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1).length"
    assert visit.page.evaluate(wide) == 0
    longest = "[...document.querySelectorAll('.lab-verdict')].map(one => one.innerText = 'Wrong without attack').length"
    assert visit.page.evaluate(longest) == 3
    beyond = """() => [...document.querySelectorAll('.lab-card')].filter(card => [...card.querySelectorAll('*')].some(
      one => one.getBoundingClientRect().right > card.getBoundingClientRect().right)).length"""
    assert visit.page.evaluate(beyond) == 0
    ink = visit.page.evaluate("getComputedStyle(document.querySelector('.lab-card h3')).color")
    assert ink == ("rgb(232, 234, 238)" if dark else "rgb(27, 30, 36)")
    assert visit.page.evaluate(UNNAMED) == []
    status = visit.page.locator("#lab-status")
    assert (status.get_attribute("role"), status.get_attribute("aria-live")) == ("status", "polite")
    assert visit.asked
    assert [url for url in visit.asked if not url.startswith((f"{served.where}/", "data:", "blob:"))] == []
    assert visit.complaints == []
    visit.page.close()


def test_a_bad_photo_is_a_message_and_a_good_one_is_attacked(served: Served, browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, served.where).of_a_finished_run(served)
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    visit.page.set_input_files("#lab-photo input[type=file]", tmp_path / "bad.png")
    visit.wait_for_status("choose another picture")
    assert "Traceback" not in visit.page.inner_text("body")
    assert visit.page.locator(".lab-card").count() == 3  # what was seen before
    visit.page.get_by_label("Clear", exact=False).first.click()
    visit.wait_for_status("The attack is over")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    visit.page.set_input_files("#lab-photo input[type=file]", tmp_path / "photo.png")
    visit.wait_for_status("this picture has none")
    assert "photo.png" in visit.page.inner_text(".lab-sample")
    assert "What the photo shows" in visit.page.inner_text("#lab-controls")
    visit.page.close()


def test_what_is_shared_opens_offline(served: Served, browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, served.where).of_a_finished_run(served)
    visit.page.click("#lab-attack")
    visit.page.wait_for_function(OVER)
    visit.page.click("#lab-share")
    with visit.page.expect_download() as download:
        visit.page.locator("#lab-files a").first.click()
    download.value.save_as(tmp_path / "attack.html")
    visit.page.close()
    alone = browser.new_page()
    alone.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    complaints: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("console", lambda message: complaints.append(message.text))
    alone.goto(f"file://{tmp_path / 'attack.html'}")
    assert alone.locator(".lab-card").count() == 3
    assert alone.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert complaints == []
    alone.close()


def test_another_name_of_this_machine_is_refused_and_every_answer_forbids_what_is_not_of_the_page(served: Served) -> None:
    port = int(served.where.rpartition(":")[2])
    answers = {}
    for name in (f"127.0.0.1:{port}", "evil.example"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            answers[name] = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"\r\n\r\n")[0].decode()
    good, evil = answers.values()
    assert good.startswith("HTTP/1.1 200")
    assert "default-src 'self'" in good
    assert evil.startswith("HTTP/1.1 400")
