"""A system that was trained on images in another range is named, and one that is merely bad is not."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline import evaluate
from pipeline.attacks.specs import ClassAttack, ClassLoss
from pipeline.attacks.start import AttackBatch
from pipeline.evaluation.inputs import OwnBatch
from pipeline.evaluation.own import attack_batch_of
from pipeline.evaluation.preprocessing import doubts_about_preprocessing
from pipeline.system import as_system

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
BACK = {  # from what a system was trained on to images in [0,1]
    "from 0 to 255": lambda given: given / 255,
    "from -1 to 1": lambda given: (given + 1) / 2,
    "less ImageNet's mean, over its standard deviation": lambda given: given * STD + MEAN,
    "with blue as the first channel": lambda given: given.flip(1),
}
COLORS = torch.eye(4, 3).repeat_interleave(16, 0)
"""Of 64 images: red, green, blue and none."""
IMAGES = (0.15 + 0.2 * COLORS)[:, :, None, None].expand(-1, -1, 4, 4) + 0.02 * torch.rand(
    64, 3, 4, 4, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(4).repeat_interleave(16)


class Nearest(nn.Module):
    """Right on every image that it is given as it expects it: the nearest of four colors, in what is images in [0,1] again."""

    def __init__(self, back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.back, self.colors = back, nn.Parameter(0.15 + 0.2 * torch.eye(4, 3))

    def forward(self, images: Tensor) -> Tensor:
        return -torch.cdist(self.back(images).mean(dim=(2, 3)), self.colors)


def shown(system: nn.Module, images: Tensor = IMAGES, labels: Tensor = LABELS) -> AttackBatch:
    own = OwnBatch(images, labels, None)
    return attack_batch_of(as_system(system), own, positions=range(len(labels)), device=torch.device("cpu"), batch_size=64)


@pytest.mark.parametrize("way", BACK)
def test_a_system_that_expects_other_images_is_told_so(way: str) -> None:
    (doubt,) = doubts_about_preprocessing(shown(Nearest(BACK[way])))
    assert f"and on 64 given {way}: if it was trained so, do that in its first layer" in doubt


@pytest.mark.parametrize("seed", range(4))
def test_a_system_that_is_right_or_wrong_by_chance_or_says_one_class_is_not(seed: int) -> None:
    torch.manual_seed(seed)
    by_chance = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    for system, labels in ((Nearest(lambda given: given), LABELS), (by_chance, LABELS[torch.randperm(64)])):
        assert list(doubts_about_preprocessing(shown(system, labels=labels))) == []


def test_nine_images_decide_nothing_and_what_a_system_refuses_is_no_way() -> None:
    assert (
        list(doubts_about_preprocessing(shown(Nearest(BACK["with blue as the first channel"]), IMAGES[:9], LABELS[:9] + 2))) == []
    )

    class Strict(Nearest):
        def forward(self, images: Tensor) -> Tensor:
            if images.max() > 1:
                raise ValueError("too bright")
            return super().forward(images)

    assert list(doubts_about_preprocessing(shown(Strict(BACK["from 0 to 255"])))) == []


def test_evaluate_warns() -> None:
    pgd = ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(Nearest(BACK["from 0 to 255"]), [(IMAGES, LABELS)], attacks={"pgd": pgd}, epsilons=["1/255"])
    assert any("right on 16 of 64 images as they are given, and on 64 given from 0 to 255" in str(one.message) for one in told)
