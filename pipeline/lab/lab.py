"""The command ``foreguard lab``.

What only the work itself needs is imported when it begins: neither ``--help`` nor a typo should wait for it.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

from pipeline.errors import ConfigError, RunError
from pipeline.interrupts import temporary, told
from pipeline.lab.config import LabConfig
from pipeline.runs.files import near

MISSING = "foreguard lab needs Gradio, which is not installed: pip install 'foreguard[lab]'"
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_OFFLINE": "1"}
"""What Gradio and huggingface_hub read when they are imported: nothing is told to anybody, and nothing asked."""


def lab(config: LabConfig) -> None:
    """Serve the page until it is interrupted. Raises ConfigError where Gradio is missing or the port is taken, a UserError of the
    kind that fits where the run will never have a system; one that has none yet is told in the page."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(MISSING)
    if not config.run.exists():
        raise RunError(f"{config.run}: no such run{near(config.run) or '; foreguard list shows the runs below runs/'}")
    os.environ.update(_QUIET)
    directory = Path(tempfile.mkdtemp(prefix="foreguard-lab-"))
    with temporary(directory), told("and the page is closed"):
        os.environ["GRADIO_TEMP_DIR"] = str(directory)  # photos that are dropped in end with the process
        _serve(config, directory)


def _serve(config: LabConfig, directory: Path) -> None:
    from pipeline.lab.server import address, guarded, is_loopback, listening, serve

    with listening(config.host, config.port) as listener:
        from pipeline.arithmetic import tf32_disabled
        from pipeline.evaluation.devices import choose_device
        from pipeline.lab.desk import Desk
        from pipeline.lab.page import application

        device = choose_device(config.accelerator)
        desk = Desk(config=config, device=device)
        desk.look(first=True)
        where = address(config.host, listener.getsockname()[1])
        with tf32_disabled(device):
            page = guarded(application(desk, directory), config.host)
            print(f"laboratory: {where} (Ctrl-C ends it)", flush=True)
            if not is_loopback(config.host):
                print("whoever reaches this address on the network can use the page and upload to it", flush=True)
            if config.browser:
                _open(where)
            serve(page, listener)


def _open(where: str) -> None:
    """Show the page where there is a desktop; a terminal alone is left as it is."""
    import sys
    import webbrowser

    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(where)
