"""The public names: what they are, and what reading them costs."""

import subprocess
import sys

import pytest

import pipeline

NAMES = ["MaskConfig", "ThreatModel", "TwoStage", "attack", "evaluate", "load_system", "predict"]


def test_the_public_names_are_these_and_all_of_them_are_there() -> None:
    assert pipeline.__all__ == NAMES
    assert set(NAMES) <= set(dir(pipeline))
    for name in NAMES:
        assert getattr(pipeline, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'attak'"):
        _ = pipeline.attak


def test_importing_the_package_imports_none_of_them() -> None:
    program = "import sys, pipeline; print(sorted({'torch', 'pydantic', 'numpy', 'pipeline.system'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


OTHERWISE_TYPED = """
import torch
from pipeline.errors import UserError
from pipeline import TwoStage, attack, evaluate, load_system

def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))

images, labels, model = torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), net()
data = [(images, labels)]
for call, said in [
    (lambda: evaluate(model, data, attacks=None), "attacks is None, expected a suite, names of attacks, or attacks by a name"),
    (lambda: evaluate(model, data, attacks=5), "attacks is 5, expected a suite"),
    (lambda: evaluate(model, data, attacks=[5]), "attacks is [5], expected a suite"),
    (lambda: evaluate(model, data, attacks={"mine": 5}), "AttackSuite: attacks.mine: "),
    (lambda: evaluate(model, data, threat="linf"), "threat is a str, expected a ThreatModel"),
    (lambda: evaluate(model, data, epsilons=None), "ThreatModel: epsilons: "),
    (lambda: attack(model, images, labels, None), "AttackSuite: attacks.attack: "),
    (lambda: attack(model, images, labels, threat="linf"), "threat is a str, expected a ThreatModel"),
    (lambda: attack(model, images, labels, observer=5), "observer is a int, expected a function"),
    (lambda: load_system(5), "run is 5, expected a path"),
    (lambda: load_system(None), "run is None, expected a path"),
    (lambda: load_system("runs/x", masks="learned"), "masks is 'learned', expected a mapping such as {'source': 'learned'}"),
    (lambda: TwoStage(None, masks="oracle"), "the classifier is a NoneType, expected a torch.nn.Module"),
    (lambda: TwoStage(abs, masks="oracle"), "the classifier is a builtin_function_or_method, expected a torch.nn.Module"),
    (lambda: TwoStage(net(), segmenter=abs), "the segmenter is a builtin_function_or_method, expected a torch.nn.Module"),
    (lambda: TwoStage(net(), masks="oracle", fill="mean", mean_color=(1, 2)), "the mean color is (1, 2), expected red, green"),
    (lambda: TwoStage(net(), masks="oracle", fill="mean", mean_color=0.5), "the mean color is 0.5, expected red, green"),
]:
    try:
        call()
        print("taken:", said)
    except Exception as error:
        if not isinstance(error, UserError) or said not in str(error) or "\\n" in str(error):
            print(type(error).__name__, error, "and not:", said)
"""


@pytest.mark.slow
def test_what_is_of_another_type_is_refused_in_one_line() -> None:
    """In a process of its own: here the test suite's checks of types would be first."""
    done = subprocess.run([sys.executable, "-c", OTHERWISE_TYPED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
