"""What gives false robustness away: diagnostics of a system, each with a verdict and what to do about it.

After Athalye, Carlini and Wagner 2018 (https://arxiv.org/abs/1802.00420) and Carlini et al. 2019
(https://arxiv.org/abs/1902.06705), with what a mask adds to it. Passing is no proof of robustness; failing means that a robust
accuracy measured by gradients may be too high. Every tolerance is relative to the scale of the logits.
"""

from pipeline.attacks.diagnostics.check import Check as Check
from pipeline.attacks.diagnostics.check import Outcome as Outcome
