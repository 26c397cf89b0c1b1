"""Both stages as one function, images to logits and masks, in files that other programs run: torch.export and ONNX.

A file is kept only if it agrees with the module that it was made from.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, RunError
from pipeline.masks.config import MaskSource
from pipeline.runs.exported import Parity
from pipeline.shapes import Images
from pipeline.sharing.config import Kind
from pipeline.system import TwoStage, masks_and_logits

FILES: dict[Kind, str] = {"torch-export": "system.pt2", "onnx": "system.onnx"}
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""What ONNX needs: the extra ``export``."""
BATCH = 50
SMALLEST = 16
"""Pixels a side that a graph has to take, where training images were not smaller."""
STEPS = (1, 8, 16, 32)
"""Of which a side may have to be a multiple: networks halve it again and again."""
LOGITS, MASKS = 1e-3, 1e-4
"""How far logits may be off, as a share of the largest one (at least of 1), and masks on average."""

Function = Callable[[Images], tuple[Tensor, Tensor]]


class Joint(nn.Module):
    """Images (B,3,H,W) in [0,1] to logits (B,K) and the masks (B,1,H,W) that the classifier saw them through."""

    def __init__(self, system: TwoStage) -> None:
        super().__init__()
        self.system = system

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and masks."""
        if self.system.mask_config.source == MaskSource.NONE:
            return self.system(images), torch.ones_like(images[:, :1])  # its len() would fix the batch
        masks, logits = masks_and_logits(self.system, images)
        return logits, masks


class Traced(NamedTuple):
    """What torch.export made of a joint system."""

    program: Any
    """``torch.export.ExportedProgram``."""
    size_step: int | None
    """Images may have any height and width that are multiples of it; None: only the size of training."""
    smallest: int | None
    """And at least so many pixels; None likewise."""


def check_possible(system: TwoStage, files: tuple[Kind, ...]) -> None:
    """Raises ConfigError where a file cannot be made: packages are missing, or the system is no function of the image alone."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in files and missing:
        raise ConfigError(
            f"files: onnx needs {', '.join(missing)}: pip install 'foreguard[export]', or leave it out with files=[torch-export]"
        )
    config = system.mask_config
    if files and not (config.source.is_learned or config.source == MaskSource.NONE):
        raise ConfigError(
            f"files: masks of the source {config.source.value} come with the data and not from the image: say masks.source=learned"
            " segmenter_run=..., or files=[] for the weights alone"
        )
    if files and config.uses_seeds:
        raise ConfigError(
            "files: the fill noise is drawn by each image's seed, which a file does not have: say files=[] for the weights alone"
        )


@torch.no_grad()
def trace(joint: Joint, side: int) -> Traced:
    """The joint system as a graph, for any batch and, where the stages allow it, any size. Raises RunError where it has none."""
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1)
    shapes: list[tuple[int | None, int | None, dict[int, Any]]] = []
    for step in (step for step in STEPS if _takes_more(joint, side, step)):
        least = max(1, min(side, SMALLEST) // step)
        height, width = (torch.export.Dim(name, min=least) for name in ("height", "width"))
        shapes.append((step, least * step, {0: batch, 2: step * height, 3: step * width}))
    shapes.append((None, None, {0: batch}))
    reason: Exception | None = None
    for kept, smallest, dynamic in shapes:
        try:
            program = torch.export.export(joint, (example,), dynamic_shapes={"images": dynamic})
        except Exception as error:  # of somebody else's network: the next one asks for less
            reason = error
            continue
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where the sources lie on this machine is nobody's business
        return Traced(program, kept, smallest)
    said = " ".join(str(reason).split())[:300]
    raise RunError(f"files: torch.export finds no graph of this system: {said}; say files=[] for the weights alone") from reason


def write_file(kind: Kind, path: Path, traced: Traced, classes: tuple[str, ...]) -> Function:
    """Write the graph, and read it back as a function of images. An ONNX file says the classes as JSON."""
    if kind == "torch-export":
        torch.export.save(traced.program, path)
        module: Function = torch.export.load(path).module()
        return module
    written = torch.onnx.export(
        traced.program, dynamo=True, input_names=["images"], output_names=["logits", "masks"], verbose=False
    )
    assert written is not None
    written.model.metadata_props["classes"] = json.dumps(classes)
    written.save(path)
    return _onnx_function(path)


def _onnx_function(path: Path) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, masks = session.run(["logits", "masks"], {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(masks)

    return function


@torch.no_grad()
def check_parity(name: str, function: Function, joint: Joint, *, seeded: Iterable[Tensor], test: Iterable[Tensor] = ()) -> Parity:
    """Compare a file with the module it was made from, on batches of seeded noise and of a test split.

    Raises RunError: another prediction, or figures that are too far off.
    """
    images, logits_off, masks_off = {"seeded": 0, "test": 0}, 0.0, 0.0
    for kind, batch in chain(zip(repeat("seeded"), seeded), zip(repeat("test"), test)):
        (expected, expected_masks), (found, masks) = joint(batch), function(batch)
        images[kind] += len(batch)
        off = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        logits_off = max(logits_off, off)
        masks_off = max(masks_off, float((masks - expected_masks).abs().mean()))
        changed = int((found.argmax(1) != expected.argmax(1)).sum())
        if changed or not off <= LOGITS or not masks_off <= MASKS:
            raise RunError(
                f"{name}: differs from the system that it was made from ({changed} of {len(batch)} predictions, logits by {off:.2g}"
                f" of their size, masks by {masks_off:.2g}), so it is not kept; leave it out of files"
            )
    return Parity(test_images=images["test"], seeded_images=images["seeded"], logits=logits_off, masks=masks_off)


def seeded_images(side: int, size_step: int | None) -> Iterator[Images]:
    """Images to compare on where there are no others: noise at every scale, in batches of several sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, side, side), (BATCH, side, side)]
    if size_step is not None:
        sizes.append((3, side + size_step, side + 2 * size_step))
    for count, height, width in sizes:
        fine = torch.rand(count, 3, height, width, generator=generator)
        coarse = torch.rand(count, 3, 3, 3, generator=generator)
        yield (fine + 2 * nn.functional.interpolate(coarse, (height, width), mode="bilinear")) / 3


def _takes_more(joint: Joint, side: int, step: int) -> bool:
    """Whether the stages take images that are larger by a step, and of other proportions."""
    if side % step:
        return False
    try:
        joint(torch.zeros(1, 3, side + step, side + 2 * step))
    except Exception:  # of somebody else's network, which says it in its own way
        return False
    return True
