"""Random numbers of images against the published sequence, the distributions they claim, and other batches."""

import pytest
import torch
from scipy import stats

from pipeline import randomness

SEEDS = torch.tensor([0, 1, 2**63 - 1, -5])


def test_the_numbers_are_those_of_the_published_splitmix64_sequence() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    drawn = randomness.random_integers(torch.tensor([1234567]), (5,))
    assert drawn.tolist() == [[number >> 40 for number in published]]


def test_an_image_gets_the_same_numbers_alone_and_in_any_batch() -> None:
    together = randomness.uniform(SEEDS, (3, 5, 7), dtype=torch.float32)
    for index, seed in enumerate(SEEDS):
        assert torch.equal(randomness.uniform(seed.view(1), (3, 5, 7), dtype=torch.float32)[0], together[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform_below_one(dtype: torch.dtype) -> None:
    drawn = randomness.uniform(SEEDS, (20_000,), dtype=dtype)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for row in drawn:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-3


def test_uniform_numbers_do_not_depend_on_the_type() -> None:
    single, double = (randomness.uniform(SEEDS, (100,), dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.double(), double)


def test_normal_numbers_are_normal_and_finite() -> None:
    drawn = randomness.normal(torch.arange(64), (3, 32, 32), dtype=torch.float32)
    assert drawn.isfinite().all()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3


def test_neighbouring_seeds_and_keys_give_unrelated_numbers() -> None:
    streams = [randomness.derive_seeds(torch.arange(3), key, other) for key in (0, 1, -1) for other in (0, 1, 2**63)]
    rows = torch.cat([randomness.uniform(seeds, (4096,), dtype=torch.float64) for seeds in streams])
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / 4096**0.5


def test_the_order_of_the_keys_matters() -> None:
    assert not torch.equal(randomness.derive_seeds(SEEDS, 1, 2), randomness.derive_seeds(SEEDS, 2, 1))
