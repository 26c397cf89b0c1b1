"""An attack that the package does not know: all that is needed to add one, beside its line in ``attacks.registry``.

Run as a script it is registered and goes through a suite, an evaluation and a composed configuration:
python one_step.py SMALL DIRECTORY.
"""

import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.attacks.specs import AttackSpec, Passes
from pipeline.config import Number, configuration

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.attacks.start import AttackStart


@configuration
class OneStep(AttackSpec):
    """One step along the gradient of the margin (Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572)."""

    kind: Literal["one-step"] = "one-step"
    """One step along the gradient of the margin."""
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Length of the step as a share of epsilon, above 0 and at most 1."""

    def num_starts(self, num_classes: int) -> int:
        """One."""
        del num_classes
        return 1

    def passes(self, num_classes: int) -> Passes:
        """One in each direction."""
        del num_classes
        return Passes(forward=1, backward=1)

    def run(self, start: "AttackStart") -> "Tensor":
        """The image moved by its share of epsilon."""
        from pipeline.attacks.objectives import ModelObjective, margin, scores_and_gradients
        from pipeline.attacks.pgd import ascended

        batch = start.batch
        objective = ModelObjective(model=batch.system, score=margin, targets=(batch.labels,), context=batch.context)
        _, gradients = scores_and_gradients(objective, batch.images)
        return ascended(start.ball, batch.images, gradients, self.share * start.ball.radius)


def main(small: str, directory: str) -> None:
    """Register the attack, then use it as any other."""
    from pipeline.attacks import registry

    registry.SPECS.append("one_step.OneStep")

    import torch

    from pipeline.attacks.suite import AttackSuite
    from pipeline.cli.composition import load_config
    from pipeline.config import validate
    from pipeline.evaluation.config import EvaluateConfig
    from pipeline.evaluation.evaluator import attack_images
    from pipeline.evaluation.records import RecordStore

    suite = validate(AttackSuite, {"attacks": {"toy": {"kind": "one-step", "share": "1/2"}}})
    run = runpy.run_path(small)["evaluation_run"](attacks=suite.attacks, epsilons=(0.0, 0.02), save_images=True)
    attack_images(run, RecordStore(Path(directory)), device=torch.device("cpu"), advance=[].append)
    words = [
        "prepared=p",
        "run=r",
        "classifier_run=c",
        "attack=fast",
        "attack.attacks.toy.kind=one-step",
        "attack.attacks.toy.share=1/2",
    ]
    print(load_config("evaluate", EvaluateConfig, words).attack.attacks["toy"] == suite.attacks["toy"])


if __name__ == "__main__":
    main(*sys.argv[1:])
