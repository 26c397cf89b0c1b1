"""Shell completion: what is offered, at what cost, and in real shells on a terminal."""

import fcntl
import os
import pty
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline.cli.commands import COMMANDS
from pipeline.cli.completion import SHELLS, candidates
from pipeline.cli.groups import group_choices
from pipeline.cli.main import main
from pipeline.config import dotted_keys
from pipeline.masks.config import MaskSource

ROOT = Path(__file__).parents[3]


def offered(*words: str) -> list[str]:
    return candidates(list(words), COMMANDS)


def test_commands_are_completed() -> None:
    assert offered("") == sorted([*COMMANDS, "completion", "--help", "--version"])
    assert offered("train-") == ["train-classifier", "train-joint", "train-segmenter"]
    assert offered("no-such-command", "") == []
    assert offered("completion", "") == sorted(SHELLS)


def every_key(command: str, typed: str = "") -> set[str]:
    """What is reached by going on behind every dot that is offered."""
    found = set(offered(command, typed))
    return {word[:-1] for word in found if word.endswith("=")} | {
        key for word in found if word.endswith(".") and word != typed for key in every_key(command, word)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_reached_and_none_is_invented(command: str) -> None:
    known = set(dotted_keys(COMMANDS[command].config_class()))
    free = {key for key in known if "*" in key.split(".")}
    above = {key.rpartition(".")[0] for key in known}
    reached = every_key(command)
    assert reached <= known
    missing = known - free - above - reached
    assert {key.rpartition(".")[2] for key in missing} <= {"kind", "name", "source"}, missing  # what chooses an alternative


def test_values_are_completed_where_they_have_names() -> None:
    assert offered("prepare", "data=") == [f"data={choice}" for choice in group_choices("data")]
    assert offered("evaluate", "masks.source=") == sorted(f"masks.source={source}" for source in [*MaskSource, "null"])
    assert offered("evaluate", "resume=t") == ["resume=true"]
    assert offered("evaluate", "batch_size=") == []
    assert offered("evaluate", "no_such_key=") == []


def test_a_key_that_was_given_is_not_offered_again() -> None:
    assert "prepared=" in offered("evaluate", "prep")[0]
    assert offered("evaluate", "prepared=a", "prep") == []


def test_files_are_completed_behind_the_keys_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs" / "first run").mkdir(parents=True)
    (tmp_path / "rules.txt").touch()
    (tmp_path / ".hidden").touch()
    assert offered("evaluate", "run=") == ["run=rules.txt", "run=runs/"]
    assert offered("evaluate", "run=.h") == ["run=.hidden"]
    assert offered("evaluate", "run=runs/") == ["run=runs/first run/"]
    assert offered("evaluate", "run=~/ru") == ["run=~/rules.txt", "run=~/runs/"]
    assert offered("evaluate", "run=missing/") == []


def test_options_are_completed_and_stand_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("list", "--") == ["--config-dir", "--help", "--json", "--multirun"]
    assert offered("prepare", "--j") == []
    assert offered("list", "--json", "--j") == []
    assert offered("new", "--json", "my-signs", "roo") == ["root="]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my-signs.yaml").touch()
    assert offered("ablate", "--config-dir", "mi") == ["mine/"]
    assert offered("ablate", "--config-dir=mi") == ["--config-dir=mine/"]
    for option in (["--config-dir", "mine"], ["--config-dir=mine/"]):
        assert offered("ablate", *option, "--json", "experiment=my") == ["experiment=my-signs"]
    assert offered("ablate", "experiment=my") == offered("ablate", "--config-dir", "no-such", "experiment=my") == []


def test_neither_torch_nor_hydra_is_imported_for_it() -> None:
    program = (
        "import sys; from pipeline.cli.main import main; main(['completion', 'words', 'ablate', 'masks']); "
        "print([name for name in ('torch', 'hydra', 'numpy', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["masks=", "[]"]


def test_another_shell_is_a_mistake_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "foreguard: completion tcsh: say one of bash, zsh, fish\n"
    assert main(["completion"]) == 2
    assert capsys.readouterr().err == "foreguard: completion: say one of bash, zsh, fish\n"
    assert main(["completion", "--help"]) == 0
    assert "eval" in capsys.readouterr().out


START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "--no-rcs", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {
    "bash": 'eval "$(foreguard completion bash)"',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(foreguard completion zsh)"',
    "fish": "foreguard completion fish | source",
}
TYPED = {
    "eval\tmasks.so\tlearned-h\tprep\tph\tx": "evaluate masks.source=learned-hard prepared=photos/x",
    "train-s\tobjective=adv\t": "train-segmenter objective=adversarial",
    "abl\t--config-d\tmin\t experiment=my-s\t--js\t": "ablate --config-dir mine/ experiment=my-signs --json",
    "list --json pa\tph\t": "list --json path=photos/",
}


def on_a_terminal(shell: list[str], typed: str, folder: Path) -> str:
    """What a shell answers to these keys, typed at a terminal; its end is waited for."""
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TERM": "vt100",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    master, slave = pty.openpty()
    process = subprocess.Popen(
        shell,
        **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # the terminal that controls it, as a shell wants
    )
    os.close(slave)
    os.write(master, typed.encode())
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_what_is_typed(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my-signs.yaml").touch()
    command = tmp_path / "foreguard"
    command.write_text(
        f'#!/bin/sh\n[ "$1" = completion ] && exec {sys.executable} -m pipeline "$@"\necho "called with: $*"\n', encoding="utf-8"
    )
    command.chmod(0o755)
    keys = "\n".join([LOAD[shell], *(f"foreguard {typed}" for typed in TYPED), "exit 0", ""])
    shown = on_a_terminal(START[shell], keys, tmp_path)
    assert [f"called with: {call}" in shown for call in TYPED.values()] == [True] * len(TYPED), shown
