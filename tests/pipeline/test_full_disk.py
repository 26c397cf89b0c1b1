"""A disk that is full and one that is read-only: real ones, for who runs as root is stopped by no permission."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def mount(disk: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount(disk, "size=32k")
    except FileNotFoundError:
        pytest.skip("there is no mount")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def classifier(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train-classifier", f"prepared={synthetic_set}", f"run={run}", *TRAINER]) == 0
    return run


@pytest.fixture(scope="module")
def evaluation(synthetic_set: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run"
    assert main([*words("evaluate", synthetic_set, classifier, run), f"run={run}"]) == 0
    return run


TRAINER = ["classifier.width=4", "trainer.epochs=1", "trainer.trackers=[]", "trainer.accelerator=cpu"]
KEYS = {"prepare": "prepared", "train-classifier": "run", "evaluate": "run", "report": "out"}


def words(command: str, data: Path, classifier: Path, evaluation: Path) -> list[str]:
    """A call without the key that says where to."""
    return {
        "prepare": ["prepare", "data=synthetic", "data.num_train=50", "workers=0"],
        "train-classifier": ["train-classifier", f"prepared={data}", "resume=true", *TRAINER],
        "evaluate": [
            *["evaluate", f"prepared={data}", f"classifier_run={classifier}", "resume=true", "accelerator=cpu"],
            *["attack=fast", "max_images=16", "part_size=4", "sanity=false"],
        ],
        "report": ["report", f"run={evaluation}"],
    }[command]


@pytest.mark.parametrize("command", KEYS)
def test_a_disk_that_cannot_be_written_is_one_line_and_afterwards_the_same_command_works(
    command, synthetic_set, classifier, evaluation, disk, capsys
) -> None:
    call = [*words(command, synthetic_set, classifier, evaluation), f"{KEYS[command]}={disk / 'out'}"]
    for options, reason in (("remount,size=32k", "No space left on device"), ("remount,ro", "Read-only file system")):
        mount(disk, options)
        capsys.readouterr()
        assert main(call) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"foreguard: {disk}/")
        assert reason in line
    mount(disk, "remount,rw,size=64m")
    assert main(call) == 0
