"""The page in a real browser: both themes, desk and phone. Skips where there is no Chromium."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    " --disable-sync --enable-logging=stderr --virtual-time-budget=4000"
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

# The page itself runs no script, so a frame of the wanted width is measured from outside.
PROBE = """<!DOCTYPE html><html><body style="margin:0">
<iframe id="frame" style="width:WIDTHpx;height:900px;border:0" srcdoc="PAGE"></iframe><pre id="found"></pre>
<script>
document.getElementById("frame").addEventListener("load", () => {
  const page = document.getElementById("frame").contentDocument, root = page.documentElement;
  const visible = () => [...page.querySelectorAll(".card")].filter(card => card.offsetParent !== null);
  const shown = name => visible().filter(card => card.dataset.outcome === name).length;
  const cards = () => ["misclassified", "robust", "wrong-clean"].map(shown);
  const before = cards();
  page.getElementById("outcome-robust").click();
  const after = cards();
  const wide = [...page.querySelectorAll("body *")].filter(one => !one.closest(".scroll, pre, svg, details:not([open])")
    && one.getBoundingClientRect().right > root.clientWidth + 1).map(one => one.tagName + "." + one.className);
  const style = getComputedStyle(page.querySelector(".panels svg text"));
  document.getElementById("found").textContent = JSON.stringify({
    client: root.clientWidth, scroll: root.scrollWidth, wide, before, after,
    ink: getComputedStyle(page.body).color, paper: getComputedStyle(page.querySelector("section")).backgroundColor,
    figure: style.fill, broken: [...page.images].filter(one => !one.complete || !one.naturalWidth).length,
  });
});
</script></body></html>"""


def look(reported: Path, folder: Path, *, width: int, dark: bool) -> tuple[dict, str]:
    """What the browser measured, and what it had to say on its console."""
    page = (reported / "index.html").read_text().replace('loading="lazy"', "")
    probe = folder / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(page)))
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    command = [CHROMIUM, *FLAGS.split(), *theme, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{probe}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found
    assert found[1], done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_is_quiet_and_follows_the_theme(reported, tmp_path, width, dark):
    found, console = look(reported, tmp_path, width=width, dark=dark)
    assert console == ""
    assert found["wide"] == []
    assert found["scroll"] <= found["client"] <= width
    assert found["broken"] == 0
    assert found["ink"] == found["figure"] == ("rgb(232, 234, 238)" if dark else "rgb(27, 30, 36)")
    assert found["paper"] == ("rgb(22, 25, 30)" if dark else "rgb(255, 255, 255)")


def test_the_gallery_filters_by_outcome_without_a_script_of_its_own(reported, tmp_path):
    found, _ = look(reported, tmp_path, width=1000, dark=False)
    assert min(found["before"]) > 0
    assert found["after"] == [0, found["before"][1], 0]
