"""What the diagnostics need to examine a patch: the square where it promises most, and a second search for places."""

import torch

from pipeline.attacks.diagnostics.probing import NUM_STEPS, STREAM, Budget, Connected, Images, objective
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.patches import allowed_corners, patch_masks, promising_corners
from pipeline.attacks.runner import run_attack
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import ThreatModel
from pipeline.system import attacked

_STEP = 0.1
"""Of descent inside a square: across the whole range of a value in ten."""
_PLACES = 4


def patch_budget(batch: AttackBatch, share: float, threat: ThreatModel) -> Budget:
    """Any change inside the most promising square of each image: of those without room for one, nothing may be changed."""
    shape = (batch.images.shape[2], batch.images.shape[3])
    side, about = patch_side(share, *shape), f"one square of {100 * share:.3g} % of the image"
    if not side:
        nowhere = torch.zeros_like(batch.images[:, :1], dtype=torch.bool)
        return Budget(norm="linf", epsilon=1.0, region=nowhere, step=_STEP, about=about)
    allowed = allowed_corners(side, shape, batch.region(threat), len(batch)).to(batch.images.device)
    with attacked(batch.system):
        corners = promising_corners(Connected(objective(batch)), batch.images, allowed, side=side, rank=0)
    return Budget(norm="linf", epsilon=1.0, region=patch_masks(corners, side, shape), step=_STEP, about=about)


def other_places(batch: AttackBatch, share: float, threat: ThreatModel) -> Images:
    """What patches at places find that are drawn anew, whatever the gradient promises there."""
    spec = PatchAttack(num_promising=0, num_random=_PLACES, num_steps=NUM_STEPS)
    return run_attack("other places", spec, batch, threat=threat, epsilon=share, run_seed=STREAM).images
