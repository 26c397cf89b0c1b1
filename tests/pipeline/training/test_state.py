"""What a run resumes from: it comes back to the bit, or is refused in one line."""

import zipfile

import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError, RunError
from pipeline.training.optim import moving_average
from pipeline.training.state import Counters, TrainingState, read_state


def state(*, width=4, steps=0, averaged=True):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.AdamW(module.parameters())
    made = TrainingState(
        module=module,
        optimizer=optimizer,
        average=moving_average(module, decay=0.5) if averaged else None,
        counters=Counters(step=steps, best_value=0.1 if steps else None),
    )
    for _ in range(steps):
        module(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        if made.average is not None:
            made.average.update_parameters(module)
    return made


def tensors(made):
    yield from made.module.state_dict().values()
    yield from made.average.state_dict().values()
    for moments in made.optimizer.state_dict()["state"].values():
        yield from moments.values()


@pytest.fixture
def path(tmp_path):
    state(steps=3).save(tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_a_state_comes_back_to_the_bit(path):
    expected, restored = state(steps=3), state()
    restored.restore(path)
    assert restored.counters == expected.counters
    pairs = list(zip(tensors(restored), tensors(expected), strict=True))
    assert len(pairs) > 20
    assert all(torch.equal(one, other) for one, other in pairs)
    assert restored.optimizer.state_dict()["param_groups"] == expected.optimizer.state_dict()["param_groups"]


def test_an_epoch_whose_checkpoint_cannot_be_written_is_not_counted():
    made, before = state(steps=3), state(steps=3)
    for one in (made, before):
        one.counters.num_images = 8

    def end_epoch():
        with made.counted_if_written():
            made.counters.end_epoch({"accuracy": 0.9}, selector="accuracy", learning_rate=0.1)
            raise RunError("the disk is full")

    with pytest.raises(RunError):
        end_epoch()
    assert made.counters == before.counters


@pytest.mark.parametrize("moves_weights", [False, True])
def test_a_state_that_is_saved_within_a_step_is_the_one_before_it(tmp_path, moves_weights):
    made, before = state(steps=3), state(steps=3)
    made.begin_step(moves_weights=moves_weights)
    made.module(torch.randn(8, 3))  # moves the statistics of batch normalization
    if moves_weights:
        with torch.no_grad():
            made.module[0].weight.add_(1)
    assert not torch.equal(made.module[1].running_mean, before.module[1].running_mean)
    made.save(tmp_path / "state.pt")
    restored = state()
    restored.restore(tmp_path / "state.pt")
    assert all(torch.equal(one, other) for one, other in zip(tensors(restored), tensors(before), strict=True))


def test_a_state_runs_no_code(path):
    class Malicious:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state": Malicious()}, path)
    with pytest.raises(CheckpointError, match="no training state: Weights only load failed"):
        read_state(path)


def flipped(content):
    middle = content.index(b"data.pkl") + 400
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "empty": lambda _: b"",
    "text": lambda _: b"nothing",
    "cut": lambda content: content[:-500],
    "flipped": flipped,
    "directory only": lambda content: content[content.index(b"PK\x01\x02") :],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused_with_the_remedy(path, damage):
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert_refused(path, r"state\.pt: (damaged|no training state): ")


def assert_refused(path, line, into=None):
    with pytest.raises(CheckpointError, match=line) as raised:
        (into or state()).restore(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("; delete it, and resume=true begins the run anew")


def test_another_archive_is_no_state(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    assert_refused(path, "no training state: ")


EDITS = {
    "a list": lambda _: [1],
    "another version": lambda content: content | {"format": 99},
    "no module": lambda content: {key: value for key, value in content.items() if key != "module"},
    "a module that is text": lambda content: content | {"module": "x"},
    "an optimizer that is a list": lambda content: content | {"optimizer": []},
    "no average": lambda content: content | {"average": None},
    "a counter too many": lambda content: content | {"counters": content["counters"] | {"other": 1}},
    "a counter that is text": lambda content: content | {"counters": content["counters"] | {"step": "three"}},
    "a counter below 0": lambda content: content | {"counters": content["counters"] | {"batch": -1}},
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_state_of_something_else_is_refused_with_the_remedy(path, edit):
    torch.save(EDITS[edit](torch.load(path, weights_only=True)), path)
    assert_refused(path, r"state\.pt: (no training state|does not fit this run|format 99 is not format)")


def test_moments_of_another_shape_are_refused(path):
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1, 1)
    torch.save(content, path)
    assert_refused(path, r"does not fit this run: exp_avg of a parameter \(4, 3\) is \(1, 1\)")


def test_a_state_of_another_architecture_is_refused(path):
    assert_refused(path, "does not fit this run: .*size mismatch", into=state(width=5))
