"""``--json`` and ``--config-dir``: one line for programs on stdout, and choices of the user's own beside the shipped ones."""

import json
import re
from pathlib import Path

import pytest

from pipeline.cli.commands import COMMANDS
from pipeline.cli.main import main
from pipeline.runs.directory import open_run

EXPERIMENT = """# @package _global_
defaults:
  - override /data: synthetic
  - _self_
data: {num_train: 40, num_val: 20, num_test: 20}
classifier_objectives: [natural]
segmenter_objectives: [natural]
experiment: tiny-signs
masks: [{train: none, test: none}]
"""


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert main([*words, "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


def test_the_list_is_one_line_of_json_and_what_people_read_goes_to_stderr(tmp_path, capsys):
    with open_run(tmp_path / "begun", command="train-segmenter", config={}, inputs={}, resume=False):
        pass
    assert main(["list", f"path={tmp_path}", "--json"]) == 0
    captured = capsys.readouterr()
    (run,) = json.loads(captured.out)["runs"]
    assert (run["command"], run["state"], run["run"]) == ("train-segmenter", "unfinished", str(tmp_path / "begun"))
    assert "unfinished" in captured.err


def test_a_first_word_without_a_key_may_stand_behind_it(capsys):
    assert set(answer(capsys, "list", "zoo")) == {"zoo", "directory"}
    assert main(["list", "--json", "zoo"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"zoo", "directory"}


def test_a_mistake_is_json_as_well_with_the_same_exit_code(tmp_path, capsys):
    assert answer(capsys, "list", f"path={tmp_path / 'no'}", code=2) == {
        "error": f"{tmp_path / 'no'}: no such directory; say path=DIRECTORY"
    }
    assert "unknown key" in answer(capsys, "list", "pfad=x", code=2)["error"]


def test_what_was_found_before_a_mistake_is_not_lost(tmp_path, capsys):
    found = answer(capsys, "doctor", f"directory={tmp_path}", "min_disk=1e9", code=2)
    assert found["ready"] is False
    assert "not ready" in found["error"]
    assert {"FAIL"} == {one["verdict"] for one in found["findings"] if one["what"] == "disk"}


def test_a_command_without_an_answer_says_which_have_one(capsys):
    assert main(["prepare", "data=synthetic", "--json"]) == 2
    assert "--json: is for evaluate, ablate, report, compare, list, new, doctor" in capsys.readouterr().err
    assert {"list", "compare", "evaluate", "doctor", "ablate", "report"} <= {
        name for name, command in COMMANDS.items() if command.answers
    }


LAUGHS = b"# @package _global_\na0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 9)) for level in range(1, 9)
)


def test_aliases_of_aliases_in_a_file_that_the_chosen_one_draws_in_are_refused_too(own, capsys):
    (own / "attack").mkdir()
    (own / "attack" / "mine.yaml").write_bytes(LAUGHS)
    (own / "experiment" / "tiny-signs.yaml").write_text("# @package _global_\ndefaults:\n  - override /attack: mine\n")
    assert main(["ablate", "--config-dir", str(own), "experiment=tiny-signs", "dry_run=true"]) == 2
    assert "mine.yaml: its aliases" in capsys.readouterr().err


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny-signs.yaml").write_text(EXPERIMENT)
    return tmp_path / "mine"


@pytest.mark.parametrize("joined", [True, False])
def test_an_experiment_of_ones_own_is_planned_from_a_directory_of_ones_own(own, tmp_path, capsys, joined):
    option = [f"--config-dir={own}"] if joined else ["--config-dir", str(own)]
    words = ["ablate", *option, "experiment=tiny-signs", f"run={tmp_path / 'run'}", f"prepared={tmp_path / 'set'}", "dry_run=true"]
    found = answer(capsys, *words)
    assert [(job["verb"], job["progress"]) for job in found["plan"]] == [("train", "new"), ("attack", "new")]
    assert all(job["passes"] > 0 for job in found["plan"])
    assert not (tmp_path / "run").exists()


def test_the_directory_is_forgotten_with_its_command_and_has_to_be_there(own, capsys):
    assert main(["ablate", "experiment=tiny-signs", "dry_run=true"]) == 2
    assert "experiment=tiny-signs: unknown choice" in capsys.readouterr().err
    assert main(["ablate", "--config-dir", f"{own}-not", "dry_run=true"]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert main(["ablate", "dry_run=true", "--config-dir"]) == 2
    assert "--config-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# @package _global_\nrun:\n\t- a\n", "cannot start any token in .*line 3"),
        (b"# @package _global_\nrun: runs/\xfc\n", "'utf-8' codec can't decode byte 0xfc"),
        ("# @package _global_\nrun: a\n".encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
        (b"# @package _global_\nrun: a\nrun: b\n", "found duplicate key run in .*line 3"),
        (b"# @package _global_\nrun: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        (b"# @package _global_\nrun: a\n---\nrun: b\n", "expected a single document"),
        (b"# @package _global_\nrun: a\0b\n", "unacceptable character"),
        (b"# @package _global_\ndefaults: fast\n", "defaults must be a list"),
        (b"# @package _global_\n", "holds no keys"),
        (b"# @package _global_\na: &a [*a]\n", "aliases .* stand for more than"),
        (LAUGHS, "aliases .* stand for more than"),
        (LAUGHS.replace(b": ", b": {x: ").replace(b"]", b"]}"), "aliases .* stand for more than"),
        (b"- run\n", "holds no keys"),
        (b"", "holds no keys"),
        (b"primary_epsilon: 8/255\n", "has to begin with the line '# @package _global_'"),
        (b"\xef\xbb\xbf# @package _global_\nprimary_epsilon: 8/255\n", "has to begin with the line"),
    ],
)
def test_a_file_of_ones_own_that_is_no_yaml_is_one_line_that_names_it(own, capsys, content, message):
    file = own / "experiment" / "tiny-signs.yaml"
    file.write_bytes(content)
    assert main(["ablate", "--config-dir", str(own), "experiment=tiny-signs", "dry_run=true"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert str(own) in line
