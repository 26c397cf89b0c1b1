"""How exactly a GPU computes: in float32 where that is what was asked for, and the same again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""The environment variable by which products of matrices on a GPU repeat to the bit; torch looks at it once, at the first product
of a process, and takes as much memory without it."""


def repeat_products() -> None:
    """Let products of matrices on a GPU repeat, unless the user has said how. To be called before the first of a process."""
    os.environ.setdefault(*CUBLAS_WORKSPACE)


@contextmanager
def tf32_disabled(device: torch.device, *, repeatable: bool = True) -> Iterator[None]:
    """Convolutions and products of matrices in float32: on a GPU the default of the former is TF32, whose rounding is as large as a
    small perturbation. If ``repeatable``, convolutions also choose algorithms that repeat their results to the bit.

    On other devices it changes nothing. Afterwards all is as it was.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    wanted = [(cudnn, "enabled", True), (cudnn, "benchmark", False), (cudnn, "deterministic", repeatable), *_without_tf32()]
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in reversed(before):
            setattr(place, name, value)


def _without_tf32() -> list[tuple[object, str, object]]:
    """By the settings of torch that this process has used so far: of the older and the newer ones neither can be read once the
    other says something else."""
    cudnn: Any = torch.backends.cudnn
    older: list[tuple[object, str, object]] = [(cudnn, "allow_tf32", False), (_Products(), "precision", "highest")]
    try:
        for place, name, _ in older:
            getattr(place, name)
    except RuntimeError:
        return [(place, "fp32_precision", "ieee") for place in (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)]
    return older


class _Products:
    """Of matrices. ``matmul.allow_tf32`` would forget the difference between "high" and "medium"."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)
