"""``foreguard export``: one directory with both stages that needs no run, and files of the joint system that agree with it."""

import dataclasses
import importlib.util
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline import TwoStage, load_system, predict
from pipeline.cli.main import main
from pipeline.config import to_plain
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.errors import CheckpointError, ConfigError, RunError
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.records import read_records
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.prediction.choice import choose_system, load_trained_system
from pipeline.runs.checkpoints import read_checkpoint, save_checkpoint, weights_digest
from pipeline.runs.directory import RunDescription
from pipeline.runs.exported import ExportedSystem, Parity
from pipeline.sharing.card import card, gather, harmless
from pipeline.sharing.export import _compared
from pipeline.sharing.joint import Joint, check_parity, check_possible, seeded_images, trace, write_file

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
ATTACK = ["attack=quickstart", "attack.threat.epsilons=[2/255,8/255]", "gallery_images=0", "max_images=12", "accelerator=cpu"]
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="foreguard[export] is not there",
)


@pytest.fixture(scope="module")
def evaluation(runs: Path, synthetic_set: Path) -> Path:
    """An evaluation of the two stages with the hard gate, which is not the masks of training. To be read only."""
    path = runs / "evaluation"
    words = [f"prepared={synthetic_set}", f"classifier_run={runs / 'classifier'}", "masks.source=learned-hard", f"run={path}"]
    assert main(["evaluate", *words, *ATTACK, "sanity=true", "sanity_images=1"]) == 0
    return path


@pytest.fixture(scope="module")
def exported(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its system, without the files that other programs run, and without the runs it was made from. To be read only."""
    out = tmp_path_factory.mktemp("exported") / "system"
    assert main(["export", f"run={evaluation}", f"out={out}", "files=[]"]) == 0
    return out


def images(synthetic_set: Path) -> torch.Tensor:
    dataset = open_prepared(synthetic_set)
    return read_rows(dataset, choose_rows(dataset, "test", 12)).images


def test_a_directory_loads_without_its_runs_and_says_what_the_system_says(
    exported: Path, evaluation: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(exported, moved)
    loaded, original = load_system(moved), load_system(evaluation)
    assert loaded.mask_config == original.mask_config
    assert loaded.mask_config.source == "learned-hard"
    for one, other in zip(predict(loaded, images(synthetic_set)), predict(original, images(synthetic_set)), strict=True):
        assert torch.equal(one, other)
    assert load_system(moved, masks={"source": "none"}).segmenter is None


def test_weights_and_digests_are_those_of_the_runs_and_no_path_of_the_machine_is_handed_on(exported: Path, runs: Path) -> None:
    assert weights_digest(exported, "classifier") == weights_digest(runs / "classifier", "classifier")
    assert weights_digest(exported, "segmenter") == weights_digest(runs / "segmenter", "segmenter")
    texts = [path.read_text() for path in exported.rglob("*") if path.suffix in (".json", ".md")]
    assert len(texts) == 4
    assert not [text for text in texts if str(runs) in text or str(exported.parent) in text]


def test_of_a_file_with_initial_weights_the_name_and_the_digest_are_handed_on(runs: Path, tmp_path: Path) -> None:
    config = ClassifierConfig(
        architecture="timm", name="test_resnet", weights="/home/somebody/secret/start.safetensors", weights_sha256="ab" * 32
    )
    checkpoint = read_checkpoint(runs / "classifier", "classifier")
    network = build_classifier(config.without_weights(), num_classes=len(checkpoint.classes), seed=0)
    described = dataclasses.replace(checkpoint, architecture=to_plain(config), config={"masks": {"source": "none"}}, segmenter=None)
    save_checkpoint(tmp_path / "run" / "checkpoints", "best", described, network.state_dict())
    assert main(["export", f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "files=[]"]) == 0
    for path in (tmp_path / "out" / "README.md", tmp_path / "out" / "classifier" / "checkpoints" / "best.json"):
        text = path.read_text()
        assert "somebody" not in text
        assert "start.safetensors" in text
        assert "ab" * 32 in text
    assert load_system(tmp_path / "out").mask_config.source == "none"


def test_it_is_scored_like_its_runs_to_the_bit(exported: Path, evaluation: Path, synthetic_set: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["evaluate", f"prepared={synthetic_set}", f"classifier_run={exported}", f"run={again}", *ATTACK]) == 0
    assert_frame_equal(read_records(again).drop("seconds"), read_records(evaluation).drop("seconds"), check_exact=True)
    assert load_system(again).mask_config == load_system(evaluation).mask_config


def test_an_evaluation_is_not_continued_with_other_masks_of_an_export(
    exported: Path, synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "system")
    words = [f"prepared={synthetic_set}", f"classifier_run={tmp_path / 'system'}", f"run={tmp_path / 'run'}", *ATTACK]
    words += ["max_images=1", "attack.threat.epsilons=[8/255]"]
    assert main(["evaluate", *words]) == 0
    assert main(["evaluate", *words, "resume=true"]) == 0
    described = ExportedSystem.read(tmp_path / "system" / "system.json")
    dataclasses.replace(described, masks={**described.masks, "threshold": 0.3}).write(tmp_path / "system" / "system.json")
    assert main(["evaluate", *words, "resume=true"]) == 2
    assert "the mask configuration is not the one that the run was begun with" in capsys.readouterr().err


def test_the_card_says_data_recipe_figures_verdict_and_threat(exported: Path, evaluation: Path) -> None:
    card = (exported / "README.md").read_text()
    summary = json.loads((evaluation / "summary.json").read_text())
    clean = summary["clean_accuracy"]
    assert f"| none | {100 * clean['value']:.1f} % " in card
    for part in (
        "On 12 test images of the data set synthetic; shares with 95 % intervals.",
        "| linf, epsilon 8/255 | ",
        "The attacker's knowledge is white-box; linf perturbations up to epsilon 2/255, 8/255",
        "masks: learned-hard, fill: black",
        "| masks in training | learned |",
        "| classifier | architecture small\\_resnet;",
        "Terms: drawn by foreguard itself, whose licence is MIT.",
    ):
        assert part in card, part
    checks = json.loads((evaluation / "sanity.json").read_text())["checks"]
    failed = sum(check["outcome"] == "FAIL" for check in checks)
    assert ("Not to be trusted" in card) == bool(failed)
    assert ("checks passed (" in card) == (not failed)


def card_of(exported: Path, evaluation: Path, **masks: str) -> str:
    """The card of an exported system as if it had these masks, and the figures of an evaluation."""
    chosen = choose_system(evaluation, None, {})
    _, checkpoint = load_trained_system(chosen, device=torch.device("cpu"))
    described = ExportedSystem.read(exported / "system.json")
    described = dataclasses.replace(described, masks={**described.masks, **masks})
    segmenter = read_checkpoint(exported, "segmenter") if MaskSource(described.masks["source"]).needs_segmenter else None
    return card(described, checkpoint, segmenter, gather(chosen, checkpoint, None))


@pytest.mark.parametrize("source", list(MaskSource))
def test_only_masks_that_follow_the_attacked_image_are_a_defence_through_both_stages(
    exported: Path, evaluation: Path, source: MaskSource
) -> None:
    text = card_of(exported, evaluation, source=source.value)
    follows = source in ("learned", "learned-hard", "joint")
    assert ("through both stages" in text) == follows
    assert ("an upper bound, not a defence that can be deployed" in text) == (not follows and source != "none")
    assert ("Mask IoU" in text) == (follows or source == "frozen")


def test_data_that_a_system_was_only_evaluated_on_are_not_given_for_those_of_its_training(
    exported: Path, evaluation: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    assert "Trained on: synthetic, fingerprint" in card_of(exported, evaluation)
    shutil.copytree(evaluation, tmp_path / "other")
    run = RunDescription.read(tmp_path / "other" / "run.json")
    dataclasses.replace(run, inputs={**run.inputs, "data set": "0" * 64}).write(tmp_path / "other" / "run.json")
    text = card_of(exported, tmp_path / "other")
    assert "test images of the data set synthetic" in text
    assert "Trained on: not recorded, fingerprint" in text
    assert "Terms: not recorded" in text
    chosen = choose_system(tmp_path / "other", None, {})
    _, checkpoint = load_trained_system(chosen, device=torch.device("cpu"))
    assert gather(chosen, checkpoint, synthetic_set).data == "synthetic"


def test_of_a_run_that_was_never_attacked_the_card_claims_nothing(runs: Path, tmp_path: Path) -> None:
    assert main(["export", f"run={runs / 'classifier'}", f"out={tmp_path / 'out'}", "files=[]"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "nothing is known of its accuracy" in card
    assert "No diagnostics were made." in card
    assert "Terms: not recorded: whoever hands this on has to say it." in card


@pytest.mark.parametrize("name", ["system.json", "classifier/checkpoints/best.json", "segmenter/checkpoints/best.json", "weights"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_directory_is_one_line(
    exported: Path, synthetic_set: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy" / name
    if name == "weights":
        path = next((tmp_path / "copy" / "segmenter").rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(CheckpointError) as caught:
        load_system(tmp_path / "copy")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert main(["evaluate", f"prepared={synthetic_set}", f"classifier_run={tmp_path / 'copy'}", f"run={tmp_path / 'run'}"]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_directory_with_files_of_another_system_is_one_line(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    checkpoint = read_checkpoint(copy, "classifier")
    other = build_classifier(ClassifierConfig(width=4), num_classes=len(checkpoint.classes), seed=1)
    save_checkpoint(copy / "classifier" / "checkpoints", "best", checkpoint, other.state_dict())
    with pytest.raises(
        CheckpointError, match=r"classifier/checkpoints/best.*: (is not the file that system\.json names|is missing)"
    ):
        load_system(copy)
    described = ExportedSystem.read(exported / "system.json")
    shutil.copytree(exported, tmp_path / "again")
    dataclasses.replace(described, files={"classifier/../../secret": "0" * 64}).write(tmp_path / "again" / "system.json")
    with pytest.raises(CheckpointError, match=r"system\.json: damaged \(files: 'classifier/\.\./\.\./secret' lies elsewhere\)"):
        load_system(tmp_path / "again")


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    exported: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["export", f"run={runs / 'classifier'}", *words]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        return error

    there = tmp_path / "there"
    shutil.copytree(exported, there)
    assert "holds an exported system; say force=true to replace it" in refused(f"out={there}", "files=[]")
    (there / "segmenter" / "notes.txt").write_text("mine")
    force = (f"out={there}", "files=[]", "force=true")
    assert "segmenter/notes.txt: is not of the system that was exported there" in refused(*force)
    (there / "segmenter" / "notes.txt").unlink()
    whole = (there / "system.json").read_bytes()
    (there / "system.json").write_bytes(whole[:-20])
    assert "which files here are of the system is not known any more" in refused(*force)
    (there / "system.json").write_bytes(whole)
    assert main(["export", f"run={runs / 'classifier'}", *force]) == 0
    assert load_system(there).mask_config.source == "learned"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "holds something that is no exported system" in refused(f"out={tmp_path / 'mine'}", "files=[]", "force=true")
    segmenter = next((exported / "segmenter").rglob("best.json"))
    assert "expected one of a classifier" in refused(f"out={tmp_path / 'no'}", "files=[]", f"run={segmenter}")
    assert "user/name" in refused(f"out={tmp_path / 'no'}", "files=[]", "push=nobody")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "there"]


def tiny(source: str = "learned", *, sides: bool = True) -> TwoStage:
    """A system whose segmenter takes sides that are multiples of 8, or with ``sides=False`` whose classifier takes 16 px alone."""
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.ConvTranspose2d(4, 1, 8, stride=8))
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(4), nn.Flatten()] if sides else [nn.MaxPool2d(4), nn.Flatten()]
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *head, nn.Linear(64, 3))
    return TwoStage(classifier, segmenter=segmenter, masks=MaskConfig(source=source)).eval()


@pytest.mark.parametrize(("source", "sides", "step"), [("learned", True, 8), ("learned", False, None), ("none", True, 1)])
def test_a_graph_takes_any_batch_and_the_sizes_that_the_stages_take(
    tmp_path: Path, source: str, sides: bool, step: int | None
) -> None:
    joint = Joint(tiny(source, sides=sides)).eval()
    traced = trace(joint, 16)
    assert traced.size_step == step
    function = write_file("torch-export", tmp_path / "system.pt2", traced, ("a", "b", "c"))
    assert traced.smallest == (step and 16)
    test = (torch.rand(count, 3, 16, 16) for count in (4, 3))
    parity = check_parity("system.pt2", function, joint, seeded=seeded_images(16, step), test=test)
    assert (parity.seeded_images, parity.test_images) == (54 if sides else 51, 7)
    assert parity.logits < 1e-5
    with zipfile.ZipFile(tmp_path / "system.pt2") as written:
        content = b"".join(written.read(name) for name in written.namelist())
    assert b"pipeline/sharing" not in content
    logits, masks = function(torch.rand(7, 3, 16, 16))
    assert (tuple(logits.shape), tuple(masks.shape)) == ((7, 3), (7, 1, 16, 16))


def test_a_file_that_says_something_else_is_not_kept() -> None:
    joint = Joint(tiny()).eval()
    for change in (lambda logits, masks: (logits.roll(1, 1), masks), lambda logits, masks: (logits, 1 - masks)):
        with pytest.raises(RunError, match=r"^system\.onnx: differs from the system .* so it is not kept"):
            check_parity("system.onnx", lambda images, change=change: change(*joint(images)), joint, seeded=seeded_images(16, None))


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"source": "oracle"}, "masks of the source oracle come with the data and not from the image"),
        ({"source": "frozen"}, "masks of the source frozen come with the data and not from the image"),
        ({"source": "learned", "fill": "noise"}, "the fill noise is drawn by each image's seed"),
    ],
)
def test_what_is_no_function_of_the_image_has_no_file(masks: dict[str, str], said: str) -> None:
    system = TwoStage(tiny().classifier, segmenter=tiny().segmenter, masks=MaskConfig(**masks))
    with pytest.raises(ConfigError, match=said):
        check_possible(system, ("torch-export",))
    check_possible(system, ())


def test_without_the_extra_onnx_is_one_line(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    found: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "onnxruntime" else found(name, *more))
    assert main(["export", f"run={runs / 'classifier'}", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "files: onnx needs onnxruntime: pip install 'foreguard[export]', or leave it out with files=[torch-export]" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("source", ["learned", "learned-hard", "none"])
def test_both_files_agree_with_the_system_on_the_test_images(
    runs: Path, synthetic_set: Path, tmp_path: Path, warm: Any, source: str
) -> None:
    import onnxruntime

    words = [f"run={runs / 'classifier'}", f"out={tmp_path / 'out'}", f"prepared={synthetic_set}", f"masks.source={source}"]
    # In a process of its own: the checks of shapes that tests add to our functions fix the sizes of what is traced.
    process = warm.start(["export", *words])
    _, said = process.communicate()
    assert process.returncode == 0, said
    described = ExportedSystem.read(tmp_path / "out" / "system.json")
    assert set(described.parity) == {"system.pt2", "system.onnx"}
    assert {(one.seeded_images, one.test_images) for one in described.parity.values()} == {(54, 32)}
    assert described.size_step == (1 if source == "none" else 8)
    assert b"pipeline/sharing" not in (tmp_path / "out" / "system.onnx").read_bytes()
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "system.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(described.classes)
    system = load_system(tmp_path / "out")
    for pictures in (images(synthetic_set), torch.rand(2, 3, 40, 64)):
        logits, masks = session.run(None, {"images": pictures.numpy()})
        system.image_size = pictures.shape[2] if pictures.shape[2] == pictures.shape[3] else None  # it is not to warn of others
        found = predict(system, pictures)
        assert torch.equal(torch.from_numpy(logits).argmax(1), found.labels)
        assert float((torch.from_numpy(masks) - found.masks).abs().mean()) < 1e-4
    text = (tmp_path / "out" / "README.md").read_text()
    assert "system.onnx` takes `images` and gives `logits` and `masks`" in text
    assert "from 16 px on. It agrees with the system: the same prediction on 32 test images and 54 images of seeded noise" in text


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, evaluation: Path, capsys) -> None:
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    def offline(*_words: object, **_more: object) -> None:
        raise OfflineModeIsEnabled("Cannot reach the hub:\noffline mode is enabled")

    for name in ("create_repo", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, offline)
    with pytest.raises(RunError, match=r"^hf://a/b: cannot be fetched: OfflineModeIsEnabled: Cannot reach the hub: offline"):
        load_system("hf://a/b")
    assert main(["export", f"run={evaluation}", f"out={tmp_path / 'out'}", "files=[]", "push=a/b"]) == 2
    error = capsys.readouterr().err
    assert f"push=a/b: cannot be pushed, and {tmp_path / 'out'} is kept: OfflineModeIsEnabled" in error
    assert load_system(tmp_path / "out").mask_config == load_system(evaluation).mask_config


def test_text_of_the_data_is_no_mark_up_of_the_card(exported: Path) -> None:
    _, checkpoint = load_trained_system(choose_system(exported, None, {}), device=torch.device("cpu"))
    hostile = dataclasses.replace(ExportedSystem.read(exported / "system.json"), classes=("<b>x</b>", "a|b\n# c", "[d](e)"))
    text = card(hostile, checkpoint, None, gather(choose_system(exported, None, {}), checkpoint, None))
    assert "\\<b\\>x\\</b\\>, a\\|b \\# c, \\[d\\](e)." in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red\x1b[31m", r"red\\x1b\[31m"),
        ("gpj\u202eexe", r"gpj\\u202eexe"),
        ("~~a~~ $b$ @c &lt;", r"\~\~a\~\~ \$b\$ \@c \&lt;"),
        ("see https://a.example/b", "see https: //a.example/b"),
        ("see WWW.a.example", "see WWW .a.example"),
        ("50 km/h: no", "50 km/h: no"),
    ],
)
def test_text_of_the_data_is_printed_and_nothing_else(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_the_recipe_of_stages_that_were_trained_together_is_handed_on(runs: Path, tmp_path: Path) -> None:
    for kind in ("segmenter", "classifier"):
        shutil.copytree(runs / kind, tmp_path / "joint" / kind)
    place = tmp_path / "joint" / "classifier" / "checkpoints" / "best.json"
    checkpoint = read_checkpoint(runs / "classifier", "classifier")
    recipe = {"mask_weight": 0.25, "attack_on": "each", "updates": "alternating"}
    dataclasses.replace(checkpoint, config={**checkpoint.config, **recipe, "run": str(tmp_path)}).write(place)
    assert main(["export", f"run={tmp_path / 'joint'}", f"out={tmp_path / 'out'}", "files=[]"]) == 0
    assert read_checkpoint(tmp_path / "out", "classifier").config == {**checkpoint.config, **recipe, "exported": True}
    assert "mask\\_weight 0.25, attack\\_on each, updates alternating |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("tested", "words"), [(0, "54 images of seeded noise"), (32, "32 test images and 54 images of seeded noise")]
)
def test_no_test_images_are_told_of_where_none_were_compared(tested: int, words: str) -> None:
    parity = Parity(test_images=tested, seeded_images=54, logits=0.0, masks=0.0)
    assert _compared(parity) == words
