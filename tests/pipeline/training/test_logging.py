"""Tables that can be continued, and trackers that are imported only when they are wanted."""

import sys
from types import ModuleType

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import ConfigError
from pipeline.training.logging import open_trackers, write_metrics


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"epoch": epoch, "loss": 0.1 * epoch} for epoch in (1, 2)])
    assert path.read_text() == "epoch,loss\n1,0.1\n2,0.2\n"
    assert pl.read_csv(path).to_dict(as_series=False) == {"epoch": [1.0, 2.0], "loss": [0.1, 0.2]}


def scalars(directory):
    events = EventAccumulator(str(directory))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_gets_every_value_and_forgets_what_a_resume_repeats(tmp_path):
    (log,) = open_trackers(["tensorboard"], tmp_path, run_id="a", about={}, step=0)
    log.log({"val_iou": 0.25}, step=10)
    log.log({"val_iou": 0.75}, step=20)
    log.close()
    (log,) = open_trackers(["tensorboard"], tmp_path, run_id="a", about={}, step=13)
    log.log({"val_iou": 0.5}, step=20)
    log.close()
    assert scalars(tmp_path / "tensorboard") == {"val_iou": [(10, 0.25), (20, 0.5)]}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_clear_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"trainer\.trackers: {name} is not installed: pip install {name}, or leave it out"):
        open_trackers([name], tmp_path, run_id="a", about={}, step=0)


class FakeWandb(ModuleType):
    """The three calls of wandb that are used, with the signatures of its documentation."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, *, project, dir, id, name, config, resume):  # noqa: A002
        self.calls.append(("init", project, dir, id, name, config, resume))
        return self

    def log(self, values, step):
        self.calls.append(("log", values, step))

    def finish(self):
        self.calls.append(("finish",))


def test_wandb_continues_the_run_by_its_id(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (log,) = open_trackers(["wandb"], tmp_path / "seed0", run_id="abc", about={"config": {}}, step=4)
    log.log({"val_iou": 0.5}, step=5)
    log.close()
    begin = ("init", "foreguard", str(tmp_path / "seed0"), "abc", "seed0", {"config": {}}, "allow")
    assert wandb.calls == [begin, ("log", {"val_iou": 0.5}, 5), ("finish",)]


class FakeMLflow(ModuleType):
    """The four calls of mlflow that are used, with the signatures of its documentation."""

    def __init__(self):
        super().__init__("mlflow")
        self.calls = []

    def start_run(self, *, run_name):
        self.calls.append(("start_run", run_name))

    def log_dict(self, dictionary, artifact_file):
        self.calls.append(("log_dict", dictionary, artifact_file))

    def log_metrics(self, metrics, step):
        self.calls.append(("log_metrics", metrics, step))

    def end_run(self):
        self.calls.append(("end_run",))


def test_mlflow_gets_the_configuration_and_every_value(tmp_path, monkeypatch):
    mlflow = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    (log,) = open_trackers(["mlflow"], tmp_path / "seed0", run_id="abc", about={"config": {}}, step=0)
    log.log({"val_iou": 0.5}, step=5)
    log.close()
    expected = [("start_run", "seed0"), ("log_dict", {"config": {}}, "run.json"), ("log_metrics", {"val_iou": 0.5}, 5)]
    assert mlflow.calls == [*expected, ("end_run",)]
