"""Real signals to real trainings: what is saved, what is said, and that the resumed run ends as if there had been none."""

import json
import re
import signal
from dataclasses import replace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from classifier.config import ClassifierConfig
from pipeline.attacks.config import PgdConfig
from pipeline.config import to_plain
from pipeline.data.config import AugmentConfig
from pipeline.training.awp import AwpConfig
from pipeline.training.commands import train_classifier
from pipeline.training.config import TrainClassifierConfig, TrainerConfig
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, RobustValidationConfig

QUICK = PgdConfig(epsilon=2 / 255, num_steps=1)
TRAINER = TrainerConfig(
    epochs=2, batch_size=16, eval_batch_size=8, ema_decay=0.9, checkpoint_every=100, accelerator="cpu", trackers=()
)

SCRIPT = """
import json, os, signal, sys
from contextlib import contextmanager
from dataclasses import replace
from pipeline import interrupts
from pipeline.config import validate
from pipeline.interrupts import Interrupted, signals_handled
from pipeline.training import validation
from pipeline.training.commands import train_classifier
from pipeline.training.config import TrainClassifierConfig

config = validate(TrainClassifierConfig, json.loads(sys.argv[1]))
number, place, left = int(sys.argv[2]), sys.argv[3], [int(sys.argv[4])]
kind = type(config.objective)

def count_down():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), number)

def long_call():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.sigwait([signal.SIGUSR1])  # as a long call of torch, it does not return to Python when another signal arrives

class Signalling(kind):
    @contextmanager
    def losses_in_step(self, stage, batch, seeds):
        with kind.losses_in_step(self, stage, batch, seeds) as losses:
            if place == "long step":
                count_down()
                if left[0] == 0:
                    long_call()
            yield losses

    def losses(self, stage, batch, seeds):
        if place == "step":
            count_down()
        return kind.losses(self, stage, batch, seeds)

    def validation_attack(self):
        if place == "validation":
            count_down()
        return kind.validation_attack(self)

interrupts.GIVEN_S = 0.1 if place == "long step" else interrupts.GIVEN_S
try:
    with signals_handled(lambda error: print(error, flush=True)):
        train_classifier(replace(config, objective=Signalling(**vars(config.objective))))
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def config(synthetic_set, tmp_path):
    return TrainClassifierConfig(
        prepared=synthetic_set,
        run=tmp_path / "run",
        classifier=ClassifierConfig(width=2),
        augment=AugmentConfig(shift=0.1),
        objective=AdversarialConfig(attack=QUICK, validation=RobustValidationConfig(max_images=16)),
        trainer=TRAINER,
    )


@pytest.fixture
def signalled(config, warm):
    """Trains in a process that gets a signal at the step or validation of that number; what it says last, and its exit code."""

    def run(number, place, count, config=config):
        process = warm.start([json.dumps(to_plain(config)), str(int(number)), place, str(count)], script=SCRIPT)
        out, err = process.communicate()
        return process.returncode, (out or err).splitlines()[-1]

    return run


def outcome(run):
    stored = json.loads((run / "checkpoints" / "last.json").read_text())
    table = pl.read_csv(run / "metrics.csv").drop("seconds").to_dict(as_series=False)
    return load_file(run / "checkpoints" / stored["weights"]), table


def assert_same_outcome(one, other):
    (first, table), (second, same_table) = outcome(one), outcome(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert table == same_table


@pytest.mark.parametrize(
    ("number", "place", "count", "step"),
    [
        (signal.SIGTERM, "step", 4, 4),
        pytest.param(signal.SIGINT, "step", 9, 9, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "step", 12, 12, marks=pytest.mark.slow),  # the last of the run
        pytest.param(signal.SIGTERM, "step", 6, 6, marks=pytest.mark.slow),  # the last of an epoch
    ],
)
def test_a_signal_is_heard_after_its_step_which_is_where_the_run_goes_on(
    config, signalled, tmp_path, capsys, number, place, count, step
):
    code, said = signalled(number, place, count)
    assert code == 128 + number
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert said == f"interrupted by {name} at step {step}, which is saved; the same command with resume=true continues there"
    train_classifier(replace(config, resume=True))
    assert re.search(rf"resumed at step {step}, \d of 2 epochs done", capsys.readouterr().err)
    whole = replace(config, run=tmp_path / "whole")
    train_classifier(whole)
    assert_same_outcome(config.run, whole.run)


@pytest.mark.parametrize(
    ("objective", "step"),
    [
        pytest.param(NaturalConfig(), 0, marks=pytest.mark.slow, id="first"),
        pytest.param(AwpConfig(of=AdversarialConfig(attack=QUICK)), 3, marks=pytest.mark.slow, id="moved weights"),
        pytest.param(AdversarialConfig(attack=QUICK), 6, marks=pytest.mark.slow, id="first of an epoch"),
    ],
)
def test_a_step_that_takes_too_long_is_given_up_and_done_anew(config, signalled, tmp_path, capsys, objective, step):
    config = replace(config, objective=objective)
    code, said = signalled(signal.SIGTERM, "long step", step + 1, config)
    assert (code, said.split(",")[0]) == (143, f"interrupted by SIGTERM at step {step}")
    train_classifier(replace(config, resume=True))
    assert f"resumed at step {step}," in capsys.readouterr().err
    whole = replace(config, run=tmp_path / "whole")
    train_classifier(whole)
    assert_same_outcome(config.run, whole.run)


def test_a_validation_is_left_at_once_and_made_anew(config, signalled, tmp_path, capsys):
    code, said = signalled(signal.SIGTERM, "validation", 3)  # the constructor asks first, then each validation
    assert (code, said.split(",")[0]) == (143, "interrupted by SIGTERM at step 12")
    assert pl.read_csv(config.run / "metrics.csv")["epoch"].to_list() == [1]
    train_classifier(replace(config, resume=True))
    assert "resumed at step 12, 1 of 2 epochs done" in capsys.readouterr().err
    whole = replace(config, run=tmp_path / "whole")
    train_classifier(whole)
    assert_same_outcome(config.run, whole.run)
