"""What a GPU is told about its arithmetic: flags that every build of torch has, whether there is a GPU or not."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

from pipeline.arithmetic import CUBLAS_WORKSPACE, tf32_disabled
from pipeline.errors import ConfigError
from pipeline.training.distributed import determinism

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BACKENDS = torch.backends


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a process of the older settings alone has."""
    yield
    BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cudnn.rnn.fp32_precision = "tf32"
    BACKENDS.cuda.matmul.fp32_precision = "ieee"
    BACKENDS.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


def of_convolutions_and_products() -> tuple[str, str]:
    return BACKENDS.cudnn.conv.fp32_precision, BACKENDS.cuda.matmul.fp32_precision


def by_the_older_settings() -> None:
    torch.set_float32_matmul_precision("medium")


def by_the_newer_settings() -> None:
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    BACKENDS.cuda.matmul.fp32_precision = "tf32"


def by_a_newer_one_of_convolutions() -> None:
    BACKENDS.cudnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize("chosen", [by_the_older_settings, by_the_newer_settings, by_a_newer_one_of_convolutions])
def test_neither_convolutions_nor_products_are_in_tf32_and_all_is_put_back(
    monkeypatch: pytest.MonkeyPatch, chosen: Callable[[], None]
) -> None:
    chosen()
    before = of_convolutions_and_products()
    monkeypatch.setattr(BACKENDS.cudnn, "benchmark", True)
    with suppress(KeyError), tf32_disabled(CUDA):
        assert "tf32" not in of_convolutions_and_products()
        assert (BACKENDS.cudnn.enabled, BACKENDS.cudnn.deterministic, BACKENDS.cudnn.benchmark) == (True, True, False)
        raise KeyError
    assert of_convolutions_and_products() == before
    assert (BACKENDS.cudnn.deterministic, BACKENDS.cudnn.benchmark) == (False, True)
    if chosen is by_the_older_settings:
        assert torch.get_float32_matmul_precision() == "medium"


def test_a_cpu_has_nothing_to_be_told() -> None:
    before = of_convolutions_and_products()
    with tf32_disabled(CPU):
        assert of_convolutions_and_products() == before
        assert not BACKENDS.cudnn.deterministic


def test_a_training_that_repeats_tells_cublas_and_one_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_WORKSPACE[0], raising=False)
    with determinism(enforced=True, device=CPU):
        assert os.environ[CUBLAS_WORKSPACE[0]] == CUBLAS_WORKSPACE[1]
        assert torch.are_deterministic_algorithms_enabled()
    refused = "cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."
    remedy = r"trainer\.deterministic: cumsum_cuda_kernel .* say trainer\.deterministic=false"
    with pytest.raises(ConfigError, match=remedy), determinism(enforced=True, device=CPU):
        raise RuntimeError(refused)
    with pytest.raises(RuntimeError, match=r"^cumsum"), determinism(enforced=False, device=CPU):
        raise RuntimeError(refused)
    assert not torch.are_deterministic_algorithms_enabled()
