"""Every file in configs/ that training reads becomes its dataclass, and the recorded form of a configuration reads back."""

import pytest

from pipeline.cli.composition import load_config
from pipeline.config import CONFIG_DIR, to_plain, validate
from pipeline.errors import ConfigError
from pipeline.training.awp import AwpConfig
from pipeline.training.config import TrainClassifierConfig, TrainSegmenterConfig
from pipeline.training.objectives import AdversarialConfig, FastConfig, MartConfig, NaturalConfig, NoiseConfig, TradesConfig

COMMANDS = {"train-segmenter": TrainSegmenterConfig, "train-classifier": TrainClassifierConfig}
OBJECTIVES = {"natural": NaturalConfig, "adversarial": AdversarialConfig, "trades": TradesConfig, "fast": FastConfig}
OBJECTIVES |= {"n_fgsm": FastConfig, "mart": MartConfig, "awp": AwpConfig, "noise": NoiseConfig}
REQUIRED = ["prepared=data", "run=runs/one"]


def choices(group):
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("objective", choices("objective"))
@pytest.mark.parametrize("trainer", choices("trainer"))
def test_every_choice_of_objective_and_trainer_is_valid(command, objective, trainer):
    words = [*REQUIRED, f"objective={objective}", f"trainer={trainer}"]
    if (command, objective) == ("train-segmenter", "mart"):
        with pytest.raises(ConfigError, match="its losses are of classes"):
            load_config(command, COMMANDS[command], words)
        return
    config = load_config(command, COMMANDS[command], words)
    assert type(config.objective) is OBJECTIVES[objective]
    assert validate(COMMANDS[command], to_plain(config)) == config


def test_the_robust_objectives_are_those_of_their_papers():
    attack = load_config("train-classifier", TrainClassifierConfig, [*REQUIRED, "objective=adversarial"]).objective.attack
    assert (attack.norm, attack.epsilon, attack.step_size, attack.num_steps) == ("linf", 8 / 255, 2 / 255, 7)
    trades = load_config("train-segmenter", TrainSegmenterConfig, [*REQUIRED, "objective=trades"]).objective
    assert (trades.beta, trades.attack.num_steps, trades.attack.step_size) == (6.0, 10, 2 / 255)


@pytest.mark.parametrize("attack", choices("attack/training"))
def test_every_shipped_training_attack_fits_an_objective(attack):
    words = [*REQUIRED, "objective=adversarial", f"attack/training@objective.attack={attack}", "objective.attack.epsilon=4/255"]
    chosen = load_config("train-classifier", TrainClassifierConfig, words).objective.attack
    assert chosen.norm == attack.split("_")[1]
    assert chosen.epsilon == 4 / 255


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trainer.epoch=3", r"trainer\.epoch: unknown key; did you mean trainer\.epochs\?"),
        ("trainer.learning_rate=3", r"trainer\.learning_rate: unknown key; did you mean trainer\.lr\?"),
        ("trainer.epochs=0", r"trainer\.epochs: Input should be greater than or equal to 1"),
        ("trainer.ema_decay=1", r"trainer\.ema_decay: Input should be less than 1"),
        (
            "objective=natrual",
            r"objective=natrual: unknown choice; choose one of adversarial, awp, fast, mart, n_fgsm, natural, noise, trades",
        ),
        ("masks.source=learned", r"masks\.source=learned needs a segmenter: set segmenter_run"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(word, line):
    with pytest.raises(ConfigError, match=line) as raised:
        load_config("train-classifier", TrainClassifierConfig, [*REQUIRED, word])
    assert "\n" not in str(raised.value)
