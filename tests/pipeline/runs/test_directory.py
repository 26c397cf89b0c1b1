"""A run directory is begun once and continued only as what it was begun as."""

import json
import os
from pathlib import Path

import pytest

from pipeline.errors import OccupiedError, RunError
from pipeline.runs.directory import ALGORITHMS, fingerprint_of, open_run, run_fingerprint

CONFIG = {"run": "a", "resume": False, "trainer": {"epochs": 3, "num_workers": 0, "lr": 0.1}, "classes": ["a", "b"]}
INPUTS = {"data set": "1234"}


def begin(path: Path, *, resume=False, command="train-segmenter", config=CONFIG, inputs=INPUTS):
    with open_run(path, command=command, config=config, inputs=inputs, resume=resume) as run:
        return run


def changed(**trainer):
    return CONFIG | {"trainer": CONFIG["trainer"] | trainer}


def test_a_run_says_how_it_was_made(tmp_path):
    run = begin(tmp_path / "deep" / "run")
    about = json.loads((run.path / "run.json").read_text())
    assert about["config"] == CONFIG
    assert about["inputs"] == INPUTS
    assert about["command"] == "train-segmenter"
    assert about["id"] == run.run_id
    assert about["provenance"]["python"].startswith("3.")
    assert not run.resumed
    assert not run.finished


def test_a_run_is_never_overwritten(tmp_path):
    begin(tmp_path)
    content = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError, match=r"holds a run already; continue it with resume=true"):
        begin(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == content


def test_a_run_is_continued_under_its_own_id(tmp_path):
    first = begin(tmp_path)
    second = begin(tmp_path, resume=True)
    assert second.resumed
    assert second.run_id == first.run_id


def test_resuming_what_is_not_there_begins_it(tmp_path):
    assert not begin(tmp_path / "run", resume=True).resumed


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (changed(epochs=4), r"was begun with trainer\.epochs=3, not 4"),
        (changed(lr=0.2, epochs=4), r"was begun with trainer\.epochs=3, not 4"),
        (changed(lr="0.1"), r'was begun with trainer\.lr=0\.1, not "0\.1"'),
        (CONFIG | {"classes": ["a", "c"]}, r'was begun with classes=\["a", "b"\], not \["a", "c"\]'),
        (changed(clip=None), r"was begun with trainer\.clip=absent, not null"),
    ],
)
def test_another_configuration_is_refused_by_its_first_key(tmp_path, config, line):
    begin(tmp_path)
    with pytest.raises(RunError, match=line):
        begin(tmp_path, resume=True, config=config)


def test_what_changes_no_result_may_change(tmp_path):
    begin(tmp_path)
    assert begin(tmp_path, resume=True, config=changed(num_workers=3) | {"run": "b", "resume": True}).resumed


def test_other_data_is_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(RunError, match="the data set is not the one that the run was begun with"):
        begin(tmp_path, resume=True, inputs={"data set": "9999"})


def test_the_run_of_another_command_is_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(RunError, match="is a run of train-segmenter, not of train-classifier"):
        begin(tmp_path, resume=True, command="train-classifier")


def test_a_run_of_an_older_algorithm_is_neither_continued_nor_found(tmp_path, monkeypatch):
    begin(tmp_path)
    wanted = run_fingerprint(command="train-segmenter", config=CONFIG, inputs=INPUTS)
    assert fingerprint_of(tmp_path) == wanted
    monkeypatch.setitem(ALGORITHMS, "train-segmenter", 2)
    assert run_fingerprint(command="train-segmenter", config=CONFIG, inputs=INPUTS) != wanted == fingerprint_of(tmp_path)
    with pytest.raises(RunError, match="was begun by a version of train-segmenter that comes to other results"):
        begin(tmp_path, resume=True)
    begin(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "run.json").read_text())["algorithm"] == 2


def test_a_damaged_beginning_is_refused_and_no_run_to_others(tmp_path):
    begin(tmp_path)
    whole = (tmp_path / "run.json").read_text()
    for text in ("{", "[]", "{}", whole[:-20], whole.replace('"epochs": 3', '"epochs": 4')):
        (tmp_path / "run.json").write_text(text)
        assert fingerprint_of(tmp_path) is None
        with pytest.raises(RunError, match=r"run\.json: .*; begin another run$"):
            begin(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("first", "second", "ending"), [(False, True, " without shared=true"), (True, False, ""), (False, False, "")]
)
def test_who_shares_a_run_with_a_process_that_does_not_is_told_so(tmp_path, first, second, ending):
    how = {"command": "c", "config": {}, "inputs": {}}
    with (
        open_run(tmp_path, **how, resume=False, shared=first),
        pytest.raises(OccupiedError, match=f": another process is working in this directory{ending}$"),
        open_run(tmp_path, **how, resume=True, shared=second),
    ):
        pass
    with open_run(tmp_path, **how, resume=True, shared=True), open_run(tmp_path, **how, resume=True, shared=True) as run:
        assert run.resumed


def test_two_processes_never_train_in_one_directory(tmp_path):
    with (
        open_run(tmp_path, command="c", config={}, inputs={}, resume=False),
        pytest.raises(RunError, match="another process is working in this directory"),
    ):
        begin(tmp_path, command="c", config={}, inputs={}, resume=True)
    assert begin(tmp_path, command="c", config={}, inputs={}, resume=True).resumed


def test_someone_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        begin(tmp_path, resume=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_one_clear_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"run: is a file; expected the directory of a run"):
        begin(tmp_path / "run")
    with pytest.raises(RunError, match=r"deep: cannot be made: Not a directory"):
        begin(tmp_path / "run" / "deep")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_directory_is_one_clear_line(tmp_path):
    begin(tmp_path)
    (tmp_path / ".lock").chmod(0o444)
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="cannot be written: Permission denied"):
        begin(tmp_path, resume=True)
    tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("first", "second", "continued"),
    [
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7"}, True),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, True),
        ({}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "10"}, True),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8"}, False),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "0"}, False),
        ({}, {"SLURM_JOB_ID": "8"}, False),
        ({"FOREGUARD_JOB": "a-0"}, {"FOREGUARD_JOB": "a-0"}, True),  # of a sweep on Ray, which may itself be a job of SLURM
        ({"FOREGUARD_JOB": "a-0", "SLURM_JOB_ID": "7"}, {"FOREGUARD_JOB": "b-0", "SLURM_JOB_ID": "7"}, False),
        ({}, {}, False),
    ],
)
def test_a_requeued_job_continues_its_run_without_being_told(tmp_path, monkeypatch, capsys, first, second, continued):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "FOREGUARD_JOB"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as patch:
        for name, value in first.items():
            patch.setenv(name, value)
        begin(tmp_path)
    assert capsys.readouterr().err == ""
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    if continued:
        assert begin(tmp_path).resumed
        assert capsys.readouterr().err == f"{tmp_path}: this job is run once more, so its run is continued\n"
        with pytest.raises(RunError, match=r"was begun with trainer\.epochs=3, not 4"):
            begin(tmp_path, config=changed(epochs=4))
    else:
        with pytest.raises(RunError, match="holds a run already"):
            begin(tmp_path)
