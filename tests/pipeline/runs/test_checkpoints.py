"""A checkpoint is whole or refused, and writing a new one never costs the old one."""

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.config import to_plain
from pipeline.errors import CheckpointError, RunError
from pipeline.runs import checkpoints
from pipeline.runs.checkpoints import (
    Checkpoint,
    find_segmenter,
    load_classifier,
    load_segmenter,
    load_weights,
    read_checkpoint,
    refer_to_segmenter,
    save_checkpoint,
    weights_digest,
)
from pipeline.runs.files import canonical_sha256
from pipeline.runs.provenance import provenance
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

ARCHITECTURE = ClassifierConfig(width=2)
CHECKPOINT = Checkpoint(
    kind="classifier",
    architecture=to_plain(ARCHITECTURE),
    config={"trainer": {"epochs": 3}},
    classes=("stop", "yield", "priority"),
    image_size=32,
    data_fingerprint="f" * 64,
    mean_color=(0.25, 0.5, 0.75),
    provenance=provenance(),
    step=12,
    epoch=3,
    metrics={"val_accuracy": 0.5},
)


def classifier(*, seed=1, num_classes=3, width=2):
    return build_classifier(ClassifierConfig(width=width), num_classes=num_classes, seed=seed)


def assert_same_weights(module, other):
    expected = other.state_dict()
    assert module.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path, "best", CHECKPOINT, classifier().state_dict())


def test_a_classifier_comes_back_with_every_weight_and_what_was_said_about_it(saved):
    module, checkpoint = load_classifier(saved, classes=CHECKPOINT.classes)
    assert checkpoint == read_checkpoint(saved, "classifier")
    assert replace(checkpoint, weights="", sha256="") == CHECKPOINT
    assert checkpoint.sha256 == hashlib.sha256((saved.parent / checkpoint.weights).read_bytes()).hexdigest()
    assert_same_weights(module, classifier())
    assert not module.training


def test_a_segmenter_comes_back_from_its_run_directory(tmp_path):
    config = SegmenterConfig(decoder_channels=(8, 8, 8))
    module = build_segmenter(config, seed=3).to(memory_format=torch.channels_last)
    about = replace(CHECKPOINT, kind="segmenter", architecture=to_plain(config))
    save_checkpoint(tmp_path / "checkpoints", "best", about, module.state_dict())
    loaded, _ = load_segmenter(tmp_path)
    assert_same_weights(loaded, module)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_stage_that_began_from_a_file_is_rebuilt_strictly_and_without_the_file(tmp_path, kind):
    absent = {"weights": "gone.pth", "weights_sha256": "0" * 64}
    if kind == "classifier":
        config = ClassifierConfig(architecture="timm", name="tf_efficientnet_lite0", **absent)
        module = build_classifier(config.without_weights(), num_classes=3, seed=3)
    else:
        absent = {f"encoder_{key}": value for key, value in absent.items()}
        config = SegmenterConfig(architecture="fpn", encoder="tu-tf_efficientnet_lite0", **absent)
        module = build_segmenter(config.without_weights(), seed=3)
    about = replace(CHECKPOINT, kind=kind, architecture=to_plain(config))
    path = save_checkpoint(tmp_path, "best", about, module.state_dict())
    loaded, _ = (load_classifier if kind == "classifier" else load_segmenter)(path)
    assert_same_weights(loaded, module)
    assert loaded.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    del about.architecture["encoder" if kind == "segmenter" else "name"]
    path = save_checkpoint(tmp_path, "other", about, module.state_dict())
    with pytest.raises(CheckpointError, match=r"other\.json: (of another architecture: |architecture: )"):
        (load_classifier if kind == "classifier" else load_segmenter)(path)


def test_only_the_weights_that_the_json_names_are_kept(saved):
    first = weights_digest(saved, "classifier")
    save_checkpoint(saved.parent, "best", CHECKPOINT, classifier(seed=2).state_dict())
    save_checkpoint(saved.parent, "last", CHECKPOINT, classifier(seed=1).state_dict())
    assert weights_digest(saved, "classifier") != first
    assert len(list(saved.parent.glob("best-*"))) == 1
    assert len(list(saved.parent.iterdir())) == 4
    assert_same_weights(load_classifier(saved)[0], classifier(seed=2))
    assert_same_weights(load_classifier(saved.parent / "last.json")[0], classifier(seed=1))


class Killed(BaseException):
    """What no handler expects, as if the process had ended."""


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("failure", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_a_kill_or_a_full_disk_at_any_moment_leaves_a_whole_checkpoint(saved, monkeypatch, call, number, failure):
    """Whatever moment it is, what is found afterwards is the old checkpoint or the new one, and the next writing succeeds."""
    old, new = classifier(seed=1), classifier(seed=2)
    owner = Path if call == "open" else os
    original, calls = getattr(owner, call), []

    def failing(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == number + 1:
            raise failure
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing)
        with suppress(Killed, RunError):
            save_checkpoint(saved.parent, "best", replace(CHECKPOINT, step=99), new.state_dict())
    module, checkpoint = load_classifier(saved)
    assert_same_weights(module, new if checkpoint.step == 99 else old)
    save_checkpoint(saved.parent, "best", replace(CHECKPOINT, step=99), new.state_dict())
    assert len(list(saved.parent.iterdir())) == 2


def test_a_missing_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.json: cannot be read: No such file or directory$"):
        load_classifier(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match=r": holds no trained classifier; name the directory of a run that has one"):
        load_classifier(tmp_path)


def test_missing_weights_are_named(saved):
    (weights,) = saved.parent.glob("*.safetensors")
    weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{weights.name}: cannot be read: No such file"):
        load_classifier(saved)


def reseal(path, **changes):
    """Change a file as its own writer would, checksum and all."""
    content = json.loads(path.read_text()) | changes
    del content["checksum"]
    path.write_text(json.dumps(content | {"checksum": canonical_sha256(content)}))


def test_an_edited_configuration_is_refused(saved):
    saved.write_text(saved.read_text().replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(CheckpointError, match=r"best\.json: damaged or edited \(its checksum differs\); train again") as raised:
        load_classifier(saved)
    assert "\n" not in str(raised.value)


def test_an_unknown_field_is_refused_by_name(saved):
    reseal(saved, color="red")
    with pytest.raises(CheckpointError, match="color: unexpected"):
        read_checkpoint(saved, "classifier")


def test_weights_lie_beside_their_json_and_nowhere_else(saved):
    reseal(saved, weights="../best.safetensors")
    with pytest.raises(CheckpointError, match="weights: string should match pattern"):
        read_checkpoint(saved, "classifier")


def test_one_flipped_bit_is_refused(saved):
    (weights,) = saved.parent.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"safetensors: damaged, its SHA-256 is not the one in best\.json"):
        load_classifier(saved)


def test_the_other_stage_is_refused(saved):
    with pytest.raises(CheckpointError, match="a checkpoint of a classifier, expected one of a segmenter"):
        load_segmenter(saved)
    with pytest.raises(CheckpointError, match="a checkpoint of a classifier, expected one of a segmenter"):
        load_weights(saved, nn.Identity(), kind="segmenter")


def test_another_class_count_is_refused(saved):
    with pytest.raises(CheckpointError, match="trained for 3 classes, but the data set has 43"):
        load_classifier(saved, classes=tuple(map(str, range(43))))


def test_other_class_names_are_refused(saved):
    with pytest.raises(CheckpointError, match="class 1 is 'yield' in the checkpoint, 'stop' in the data set"):
        load_classifier(saved, classes=("stop", "stop", "priority"))


def test_another_architecture_is_refused_by_shape_and_by_name(saved):
    with pytest.raises(CheckpointError, match=r"of another architecture: .* is \(2, .* float32, expected \(4, "):
        load_weights(saved, classifier(width=4), kind="classifier")
    with pytest.raises(CheckpointError, match="of another architecture: weight is missing"):
        load_weights(saved, nn.Linear(2, 2), kind="classifier")
    with pytest.raises(CheckpointError, match="of another architecture: mean is unexpected"):
        load_weights(saved, nn.Identity(), kind="classifier")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"width": 0}, r"architecture\.width: Input should be greater"),
        ({"width": 512}, r"of another architecture: network\.\S+ is \(2, .*expected \(512, "),
        ({"width": 10**12}, r"architecture\.width: Input should be less"),
    ],
)
def test_an_architecture_that_is_not_that_of_the_weights_is_refused_before_it_takes_memory(saved, changes, line):
    reseal(saved, architecture=json.loads(saved.read_text())["architecture"] | changes)
    with pytest.raises(CheckpointError, match=line):
        load_classifier(saved)


def header(**entries):
    content = json.dumps(entries).encode()
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        header() + b"surplus",
        header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}) + b"1234",
        header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]}) + b"1234",
        header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + b"1234",
        header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"1234",
        header(a={"dtype": "COMPLEX", "shape": [1], "data_offsets": [0, 4]}) + b"1234",
        b"\x10" + bytes(7) + b"[" * 16,
    ],
)
def test_a_header_that_lies_about_its_tensors_is_refused(saved, content):
    weights = saved.parent / json.loads(saved.read_text())["weights"]
    weights.write_bytes(content)
    reseal(saved, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(CheckpointError, match=rf"{weights.name}: no safetensors file") as raised:
        load_classifier(saved)
    assert "\n" not in str(raised.value)


def test_weights_of_another_type_are_not_converted_in_silence(saved):
    save_checkpoint(saved.parent, "best", CHECKPOINT, {key: value.double() for key, value in classifier().state_dict().items()})
    with pytest.raises(CheckpointError, match=r"float64, expected .* float32"):
        load_classifier(saved)


def moved(root, target):
    root.rename(target)
    return target / "classifier"


def test_a_segmenter_is_found_where_it_lay_and_beside_a_classifier_that_was_moved_with_it(tmp_path, monkeypatch):
    config = SegmenterConfig(decoder_channels=(8, 8, 8))
    about = replace(CHECKPOINT, kind="segmenter", architecture=to_plain(config))
    root = tmp_path / "runs"
    save_checkpoint(root / "segmenter" / "checkpoints", "best", about, build_segmenter(config, seed=3).state_dict())
    monkeypatch.chdir(tmp_path)
    reference = refer_to_segmenter(
        Path("runs/segmenter"), sha256=weights_digest(root / "segmenter", "segmenter"), run=Path("runs/classifier")
    )
    save_checkpoint(root / "classifier" / "checkpoints", "best", CHECKPOINT, classifier().state_dict())
    monkeypatch.chdir("/")
    assert find_segmenter(root / "classifier", reference).samefile(root / "segmenter")
    apart = tmp_path / "elsewhere" / "classifier"
    shutil.copytree(root / "classifier", apart)
    assert find_segmenter(apart, reference).samefile(root / "segmenter")
    assert find_segmenter(moved(root, tmp_path / "archive"), reference).samefile(tmp_path / "archive" / "segmenter")
    with pytest.raises(CheckpointError, match="is not there: say segmenter_run="):
        find_segmenter(apart, reference)
    with pytest.raises(CheckpointError, match=r"holds another segmenter than the one that .* was trained with"):
        find_segmenter(tmp_path / "archive" / "classifier", replace(reference, sha256="0" * 64))


def test_a_full_disk_is_one_clear_line(saved, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"safetensors: cannot be written: No space left on device$"):
        save_checkpoint(saved.parent, "best", CHECKPOINT, classifier(seed=2).state_dict())


def test_a_file_in_place_of_the_directory_is_one_clear_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"run/best-.*\.safetensors: cannot be written: (File exists|Not a directory)"):
        save_checkpoint(tmp_path / "run", "best", CHECKPOINT, classifier().state_dict())


def test_the_provenance_names_the_commit_of_this_code():
    made_with = provenance()
    assert made_with.torch == torch.__version__
    if (Path(checkpoints.__file__).parents[1] / ".git").is_dir():
        assert made_with.commit is not None
        assert len(made_with.commit) == 40
