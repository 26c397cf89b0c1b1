"""The command line as a user meets it: in a process of its own."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.commands import COMMANDS
from pipeline.cli.doctor import Finding
from pipeline.cli.main import main
from pipeline.masks.config import Fill, MaskSource

SMALL = ["data.num_train=40", "data.num_val=20", "data.num_test=20", "workers=0"]


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def refuse(capsys, *words: str) -> str:
    """Run in this process; the one line on stderr of a call that must fail with exit code 2 and print nothing else."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_lists_every_command_with_an_example(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in shown
        assert command.example in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_every_key(capsys, name):
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [
        position for position, line in enumerate(lines) if (line.startswith("  ") and "; default" in line) or "; required" in line
    ]
    assert keys
    for position in keys:
        assert lines[position + 1].startswith("      "), f"no meaning under: {lines[position]}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_accepted_by_its_configuration(name):
    from pipeline.cli.composition import load_config

    load_config(name, COMMANDS[name].config_class(), COMMANDS[name].words(shlex.split(COMMANDS[name].example)[2:]))


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert "'prepar' is no command; did you mean prepare?" in refuse(capsys, "prepar")


def test_an_unknown_key_is_named(capsys):
    assert "data.num_trian: unknown key; did you mean data.num_train?" in refuse(capsys, "prepare", "data.num_trian=3")


def test_a_wrong_type_names_key_and_value(capsys):
    assert "data.image_size: " in refuse(capsys, "prepare", "data.image_size=large")


def test_a_value_out_of_range_names_the_range(capsys):
    message = refuse(capsys, "prepare", "data.background_correlation=1.5")
    assert "data.background_correlation: Input should be less than or equal to 1, got 1.5" in message


def test_a_missing_root_is_named(capsys, tmp_path):
    for source in ("gtsrb", "coco", "folder"):
        message = refuse(capsys, "prepare", f"data={source}", f"data.root={tmp_path / 'nowhere'}", f"prepared={tmp_path / 'set'}")
        assert str(tmp_path / "nowhere") in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_directory_is_expected_is_named(capsys, tmp_path):
    (tmp_path / "set").write_text("a file")
    message = refuse(capsys, "prepare", f"prepared={tmp_path / 'set'}", *SMALL)
    assert "is a file; expected the directory" in message


def test_a_set_with_another_recipe_is_not_overwritten(capsys, tmp_path):
    words = ["prepare", f"prepared={tmp_path / 'set'}", *SMALL]
    assert main(words) == 0
    capsys.readouterr()
    assert "recipe.seed (0, now 1)" in refuse(capsys, *words, "data.seed=1")


def test_prepare_reports_counts_and_a_second_call_finds_nothing_to_do(capsys, tmp_path):
    words = ["prepare", f"prepared={tmp_path / 'set'}", "preview=true", *SMALL]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "80 samples" in shown
    assert (tmp_path / "set" / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0
    assert "unchanged since it was prepared (80 samples)" in capsys.readouterr().out


def test_what_a_set_says_of_itself_is_said_again_by_a_second_call(capsys, tmp_path):
    for name in ("a", "b", "c"):
        for kind in ("images", "masks"):
            (tmp_path / "own" / kind / "cup").mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((8, 8), np.uint8)
            pixels[2:5, 2:5] = 200 + ord(name) - 97 + 10 * (kind == "masks")
            Image.fromarray(pixels).save(tmp_path / "own" / kind / "cup" / f"{name}.png")
    words = ["prepare", "data=folder", f"data.root={tmp_path / 'own'}", f"prepared={tmp_path / 'set'}", "data.image_size=8"]
    words += ["data.test_fraction=0", "workers=0"]
    told = []
    for _ in range(2):
        assert main(words) == 0
        told.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")])
    assert told[0] == told[1]
    assert "note: there is one class alone: a classifier has nothing to tell apart" in told[0]
    assert any(line.startswith("note: the split test is empty") for line in told[0])


def test_the_module_and_its_exit_codes_work_in_a_process_of_their_own(tmp_path):
    good = run("prepare", "prepared=set", *SMALL, cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = run("prepare", "prepared=set", "data.seed=3", *SMALL, cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("foreguard: set: was made with another recipe.seed")


def test_a_sweep_runs_one_job_for_each_combination(tmp_path):
    done = run("prepare", "--multirun", "prepared=set${data.seed}", "data.seed=1,2", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("set*")} == {"set1", "set2"}


def test_a_mistake_in_a_sweep_is_one_line_too(tmp_path):
    bad = run("prepare", "--multirun", "prepared=set", "data.seed=1,2", "data.image_size=0", *SMALL, cwd=tmp_path)
    assert bad.returncode == 2
    assert "foreguard: data.image_size: " in bad.stderr
    assert "Traceback" not in bad.stderr


def test_a_launcher_that_is_not_there_is_named_with_those_that_are(capsys):
    message = refuse(capsys, "prepare", "--multirun", "hydra/launcher=submitit", "prepared=set", "data.seed=1,2")
    assert "Could not find 'hydra/launcher/submitit'" in message
    assert "basic joblib" in message


def test_a_launcher_without_a_sweep_is_refused(capsys):
    for word in ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"):
        assert f"{word}: is for --multirun only" in refuse(capsys, "prepare", "prepared=set", word)


def test_doctor_finds_this_machine_ready(capsys):
    assert main(["doctor", "min_disk=0", "min_memory=0"]) == 0
    shown = capsys.readouterr().out
    assert "same build, operators run" in shown
    assert shown.endswith("ready\n")


def test_doctor_fails_with_a_remedy_where_something_is_missing(capsys):
    assert main(["doctor", "min_disk=1e9", "min_memory=0"]) == 2
    captured = capsys.readouterr()
    assert "FAIL  disk" in captured.out
    assert "-> free 1e+09 GiB" in captured.out
    assert "not ready (disk)" in captured.err


def test_doctor_verifies_a_prepared_set(capsys, synthetic_set, tmp_path):
    assert main(["doctor", f"prepared={synthetic_set}", "min_disk=0", "min_memory=0"]) == 0
    assert "160 samples, 10 classes" in capsys.readouterr().out
    assert main(["doctor", f"prepared={tmp_path / 'none'}"]) == 2
    assert "no such directory" in capsys.readouterr().out


def test_doctor_compares_what_is_installed_with_what_the_metadata_asks_for(capsys, monkeypatch, tmp_path):
    """In front of the installed metadata lie others, that ask for more."""
    metadata = tmp_path / "foreguard-9.9.dist-info"
    metadata.mkdir()
    wanted = ["numpy<1", "pytest>=1", "no-such-package>=3", 'not-here; extra == "more"', 'not-here; python_version < "3"']
    lines = ["Metadata-Version: 2.4", "Name: foreguard", "Version: 9.9", *(f"Requires-Dist: {one}" for one in wanted)]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor", "min_disk=0", "min_memory=0"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "foreguard: doctor: not ready (numpy, no-such-package); the remedies are above\n"
    found = {line[6:].split()[0]: line for line in captured.out.splitlines() if not line.startswith(" ")}
    assert found["foreguard"].endswith(" 9.9")
    assert found["numpy"].startswith("FAIL")
    assert found["numpy"].endswith(" (needed: <1)")
    assert found["no-such-package"].endswith(" missing (needed: >=3)")
    assert found["pytest"].startswith("ok")
    assert "not-here" not in captured.out


def test_doctor_looks_through_the_packages_of_a_checkout_that_is_not_installed(capsys, monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", not_installed)
    monkeypatch.setattr("pipeline.cli.doctor._package", lambda needed: Finding(verdict="ok", what=needed.name, detail="here"))
    assert main(["doctor", "min_disk=0", "min_memory=0"]) == 0
    shown = capsys.readouterr().out
    assert "run from its sources, not installed" in shown
    assert "pycocotools " in shown


def test_help_says_what_each_choice_does_and_what_each_kind_of_attack_takes(capsys):
    assert main(["evaluate", "--help"]) == 0
    shown = capsys.readouterr().out
    for choice in (*MaskSource, *Fill):
        assert " ".join(f"{choice.value}: {choice.meaning}".split()) in " ".join(shown.split())
    for kind in ("class", "mask", "guided", "square", "autoattack"):
        assert f"-- attack.attacks.NAME: {kind} -- " in shown
    assert "  attack.attacks.NAME.num_queries  [whole number >= 1 <= 1,000,000; default 5000]\n" in shown
