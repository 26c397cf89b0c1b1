"""In which memory order networks are trained: never in the one in which oneDNN writes beyond its memory."""

import pytest
import torch
from torch import nn

from pipeline.training.layout import memory_layout

SHORTCUT = nn.Conv2d(4, 8, 1, stride=2)


@pytest.mark.parametrize(
    ("part", "capability", "device", "wanted", "channels_last"),
    [
        (SHORTCUT, "AVX2", "cpu", True, False),
        (nn.Conv2d(16, 16, 1, stride=2, groups=4), "AVX2", "cpu", True, False),
        (SHORTCUT, "AVX512", "cpu", True, True),
        (SHORTCUT, "AVX2", "cuda", True, True),
        (SHORTCUT, "AVX512", "cpu", False, False),
        (nn.Conv2d(8, 16, 1, stride=2), "AVX2", "cpu", True, True),
        (nn.Conv2d(4, 8, 1), "AVX2", "cpu", True, True),
        (nn.Conv2d(4, 8, 3, stride=2), "AVX2", "cpu", True, True),
    ],
)
def test_only_narrow_strided_shortcuts_are_kept_contiguous_and_only_where_they_are_in_danger(
    part: nn.Module, capability: str, device: str, wanted: bool, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    found = memory_layout(nn.Sequential(nn.Conv2d(3, 4, 3), part), channels_last=wanted, device=torch.device(device))
    assert found == (torch.channels_last if channels_last else torch.contiguous_format)
