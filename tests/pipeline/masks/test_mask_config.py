"""A mask configuration means what it says, and a new mask source is one file and one line."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.ablation.config import AblateConfig
from pipeline.cli.composition import load_config
from pipeline.config import to_plain
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.traits import MaskTraits

NEW_SOURCE = '''
"""Every second pixel."""
import torch
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext


def checkerboard(_config: MaskConfig, oracle_masks: torch.Tensor, _context: MaskContext) -> torch.Tensor:
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in oracle_masks.shape[2:]), indexing="ij")
    return ((rows + columns) % 2).to(oracle_masks).expand_as(oracle_masks)
'''
NEW_LINE = '    TOY = "checkerboard", "oracle", "checkerboard.checkerboard", "every second pixel"\n'
USE = """
import torch
from pipeline.cli.composition import load_config
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage
from pipeline.training.config import TrainClassifierConfig

words = ["prepared=p", "run=r", "masks.source=checkerboard", "masks.fill=black"]
masks = load_config("train-classifier", TrainClassifierConfig, words).masks
assert masks.source.needs == "oracle" and not masks.source.is_learned and not masks.source.needs_segmenter
system = TwoStage(torch.nn.Flatten(), masks=masks)
seen = system(torch.ones(1, 3, 2, 2), MaskContext(oracle_masks=torch.ones(1, 1, 2, 2)))
print(seen.tolist())
"""


@pytest.mark.slow
def test_a_new_mask_source_is_one_file_and_one_line(tmp_path: Path) -> None:
    """Trained and tested with, and offered by the command line, in a copy of the package with that file and that line."""
    package = Path(pipeline.__file__).parent
    for name in ("pipeline", "segmenter", "classifier", "configs"):
        shutil.copytree(package.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pipeline/masks/checkerboard.py").write_text(NEW_SOURCE)
    listed = tmp_path / "pipeline/masks/config.py"
    before, mark, after = listed.read_text().partition('    BOX = "box"')
    assert mark
    listed.write_text(before + NEW_LINE + mark + after)

    used = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert used.returncode == 0, used.stderr
    assert used.stdout == "[[0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]]\n"


@pytest.mark.parametrize("source", list(MaskSource))
def test_every_source_names_a_function_that_there_is_and_says_what_it_is(source: MaskSource) -> None:
    assert callable(source.function())
    assert source.meaning
    assert MaskSource(source.value) is source


# What each source needs, and with which words: learned (the segmenter on the image under attack), frozen (on the clean one).
NEEDS = {
    "none": "nothing",
    "oracle": "oracle",
    "learned": "segmenter",
    "learned-hard": "segmenter",
    "joint": "segmenter",
    "frozen": "frozen",
    "random": "oracle",
    "foreign-same": "substitute",
    "foreign-other": "substitute",
    "random-alike": "substitute",
    "box": "oracle",
    "eroded": "oracle",
    "dilated": "oracle",
    "shifted": "oracle",
    "inverted": "oracle",
}


@pytest.mark.parametrize("source", list(MaskSource))
def test_a_source_says_what_it_needs_and_what_an_attack_has_to_know_of_it(source: MaskSource) -> None:
    needs = NEEDS[source.value]
    assert source.needs == needs
    assert source.is_learned == (needs == "segmenter")
    assert source.needs_segmenter == (needs in {"segmenter", "frozen"})
    assert source.needs_data == (needs in {"oracle", "substitute"})
    assert source.substitute == (source.value if needs == "substitute" else None)
    for fill in Fill:
        config = MaskConfig(source=source, fill=fill, threshold=0.3)
        draws = source == "random" or (fill == "noise" and source != "none")
        assert config.uses_seeds == draws
        assert MaskTraits.of(config) == MaskTraits(
            source=source.value,
            follows_image=source in {"learned", "learned-hard", "joint"},
            hard_threshold=0.3 if source == "learned-hard" else None,
            uses_seeds=draws,
            hides_pixels=fill != "blur",
        )


def test_a_system_without_a_mask_has_no_trait_and_only_a_mask_with_logits_that_follows_the_image_can_be_attacked() -> None:
    none = MaskTraits()
    assert (none.source, none.follows_image, none.hard_threshold, none.uses_seeds) == ("none", False, None, False)
    assert (none.hides_pixels, none.has_logits, none.is_attackable) == (True, True, False)
    assert none.why_fixed == "the attacker cannot move the mask of the source none"
    assert MaskTraits(follows_image=True).is_attackable
    opaque = MaskTraits(source="theirs", follows_image=True, has_logits=False)
    assert not opaque.is_attackable
    assert opaque.why_fixed == "the system does not give the logits of its mask theirs (system.StagedSystem)"


def test_a_string_is_the_choice_that_it_names() -> None:
    masks = MaskConfig(source="learned-hard", fill="noise", blur_sigma="5/2")
    assert masks == MaskConfig(source=MaskSource.LEARNED_HARD, fill=Fill.NOISE, blur_sigma=2.5)
    assert masks.uses_seeds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fill": "red"}, "MaskConfig: fill: .*'black'.*, got 'red'"),
        ({"source": "leaned"}, "MaskConfig: source: .*'learned'.*, got 'leaned'"),
        ({"threshold": 1.0}, "MaskConfig: threshold: .*less than 1"),
        ({"blur_sigma": float("nan")}, "MaskConfig: blur_sigma: .*finite.*"),
        ({"blur_sigma": float("inf")}, "MaskConfig: blur_sigma: .*finite.*"),
        ({"radius": 0}, "MaskConfig: radius: .*at least|greater than or equal to 1"),
        ({"sourse": "none"}, r"MaskConfig: sourse: unknown key; did you mean source\?"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_constructed_and_when_it_is_replaced(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        MaskConfig(**values)
    if "sourse" not in values:
        with pytest.raises(ConfigError, match=f"^{message}"):
            dataclasses.replace(MaskConfig(), **values)


def test_changes_hold_what_was_said_and_nothing_else() -> None:
    words = ["prepared=p", "run=r", "classifier_run=c", "masks.source=oracle", "masks.blur_sigma=1/2", "masks.radius=null"]
    config = load_config("evaluate", EvaluateConfig, words)
    assert config.masks == {"source": MaskSource.ORACLE, "blur_sigma": 0.5}
    assert to_plain(config)["masks"] == {"source": "oracle", "blur_sigma": 0.5}
    trained = MaskConfig(source=MaskSource.LEARNED, fill=Fill.BLACK, radius=5)
    changed = MaskConfig(source=MaskSource.ORACLE, fill=Fill.BLACK, radius=5, blur_sigma=0.5)
    assert dataclasses.replace(trained, **config.masks) == changed


def test_a_change_is_validated_as_the_configuration_is() -> None:
    words = ["prepared=p", "run=r", "classifier_run=c"]
    with pytest.raises(ConfigError, match=r"^masks\.threshold: .*less than 1"):
        load_config("evaluate", EvaluateConfig, [*words, "masks.threshold=1"])
    with pytest.raises(ConfigError, match=r"^masks\.fil: unknown key; did you mean masks\.fill\?"):
        load_config("evaluate", EvaluateConfig, [*words, "masks.fil=black"])


def test_an_ablation_shares_all_but_the_source_of_its_masks() -> None:
    config = load_config("ablate", AblateConfig, ["masking.fill=black", "masking.radius=3"])
    assert config.mask_config(MaskSource.ERODED) == MaskConfig(source="eroded", fill="black", radius=3)
    assert config.mask_config(MaskSource.ERODED, pixels=1) == MaskConfig(source="eroded", fill="black", radius=1, shift=1)
    with pytest.raises(ConfigError, match=r"^masking\.source: unknown key"):
        load_config("ablate", AblateConfig, ["masking.source=oracle"])
