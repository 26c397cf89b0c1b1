"""Shapes of the tensors that travel together, as types: one entry an image of a batch, in its order. They are checked in tests."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
"""RGB in [0,1], not normalised; also points near them and gradients at them."""
Masks = Float[Tensor, "batch 1 height width"]
"""Foreground share of each pixel in [0,1]; also mask logits."""
Regions = Bool[Tensor, "batch 1 height width"]
"""True where a pixel belongs to it."""
Labels = Int64[Tensor, " batch"]
"""Classes: true, predicted or aimed at."""
Seeds = Int64[Tensor, " batch"]
"""One for each image, from its identity: what is random for it does not depend on its batch."""
Logits = Float[Tensor, "batch classes"]
Scores = Float[Tensor, " batch"]
"""One number for each image: a score, a loss, a margin."""
Indices = Int64[Tensor, " kept"]
"""Positions of some images in their batch."""
