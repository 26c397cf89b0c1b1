"""Attacks, evaluation and diagnostics rely on the protocol of a system and on nothing else of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor, nn

from pipeline.attacks.diagnostics import Outcome
from pipeline.attacks.outside import SquareAttack
from pipeline.attacks.runner import run_attack, skipped_attacks
from pipeline.attacks.specs import AttackSpec, ClassAttack, ClassLoss, GradientPath, GuidedAttack, MaskAttack, MaskGoal
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import ThreatModel
from pipeline.evaluation.diagnostics import sanity_checks
from pipeline.evaluation.evaluator import applicable, attack_images
from pipeline.evaluation.records import RecordStore, read_records
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.traits import MaskTraits
from pipeline.system import StagedSystem, System, TwoStage, as_system, attacked, masks_and_logits

CPU = torch.device("cpu")
ATTACKS: dict[str, AttackSpec] = {
    "pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=3, restarts=2),
    "apgd": ClassAttack(num_steps=4),
    "balanced": ClassAttack(path=GradientPath.BALANCED, num_steps=3),
    "collapse": MaskAttack(goal=MaskGoal.COLLAPSE, loss=ClassLoss.MARGIN, num_steps=3),
    "guided": GuidedAttack(goal=MaskGoal.FLOOD, mask_steps=2, class_steps=2),
    "square": SquareAttack(num_queries=10),
}
ON_THE_MASK = {"balanced", "collapse", "guided"}


class Foreign(nn.Module):
    """Somebody's own two-stage model, without a line of ours: it multiplies, and has its mask in a buffer of its own scale."""

    mask_traits = MaskTraits(source="spotlight", follows_image=True)

    def __init__(self, looker: nn.Module, namer: nn.Module) -> None:
        super().__init__()
        self.looker, self.namer = looker, namer

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        logits: Tensor = self.namer(images * self.masks(images) + 0.5 * (1 - self.masks(images)))
        return logits

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        masks: Tensor = 1 / (1 + torch.exp(-self.looker(images)))
        return masks


class ForeignWithLogits(Foreign):
    def mask_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.looker(images)
        return logits

    def gate(self, mask_logits: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-mask_logits))

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        logits: Tensor = self.namer(images * masks + 0.5 * (1 - masks))
        return logits


def built(joined: TwoStage, kind: str) -> System:
    assert joined.segmenter is not None
    kinds: dict[str, Callable[[], System]] = {
        "bare": lambda: as_system(joined.classifier),
        "two-stage": lambda: joined,
        "foreign": lambda: as_system(Foreign(joined.segmenter, joined.classifier)),
        "foreign with logits": lambda: as_system(ForeignWithLogits(joined.segmenter, joined.classifier)),
    }
    return kinds[kind]()


KINDS = ["bare", "two-stage", "foreign", "foreign with logits"]


def evaluated(small: ModuleType, path: Path, system: System) -> pl.DataFrame:
    run = small.evaluation_run(attacks={"pgd": ATTACKS["pgd"], "apgd": ATTACKS["apgd"]}, joined=system)
    attack_images(run, RecordStore(path), device=CPU, advance=[].append)
    return read_records(path).sort("sample_id", "epsilon", "attack").drop("seconds")


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_runs_on_every_kind_of_system_and_leaves_out_what_it_does_not_offer(small: ModuleType, kind: str) -> None:
    system = built(small.system(), kind)
    images, context = small.pictures()
    with attacked(system):
        labels = system(images, context).argmax(dim=1)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(small.IMAGES))
    threat = ThreatModel(epsilons=(0.02,))
    skipped = skipped_attacks(AttackSuite(threat=threat, attacks=ATTACKS), batch)
    assert set(skipped) == (set() if kind in ("two-stage", "foreign with logits") else ON_THE_MASK)
    if kind == "foreign":
        assert "StagedSystem" in skipped["collapse"]
    for name in ATTACKS.keys() - skipped.keys():
        found = run_attack(name, ATTACKS[name], batch, threat=threat, epsilon=0.02, run_seed=0, batch_size=8)
        with attacked(system):
            assert torch.equal(system(found.images, context).argmax(dim=1) != labels, found.misclassified)
        assert found.misclassified.any() or name == "collapse", "an attack that finds nothing shows nothing"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in ("two-stage", "foreign with logits") else kind for kind in KINDS]
)
def test_evaluation_and_diagnostics_take_every_kind_of_system(small: ModuleType, tmp_path: Path, kind: str) -> None:
    system = built(small.system(), kind)
    # At the larger epsilon nothing is left standing, so the sanity report needs no search without gradients, which takes its time.
    run = small.evaluation_run(attacks=ATTACKS, epsilons=(0.01, 0.9), joined=system, save_images=True)
    run = replace(run, suite=applicable(run.suite, run.batch(run.rows[:1], CPU))[0])
    store = RecordStore(tmp_path)
    attack_images(run, store, device=CPU, advance=[].append)
    records = read_records(tmp_path)
    assert set(records["mask_source"]) == {{"bare": "none", "two-stage": "learned"}.get(kind, "spotlight")}
    assert (records["adversarial_prediction"] != records["label"]).sum() > (records["clean_prediction"] != records["label"]).sum()
    checks = {check.name: check for check in sanity_checks(run, store, records, num_images=4, device=CPU, epsilon=0.9)}
    assert checks["batch invariance"].outcome is Outcome.PASS
    assert checks["re-scoring of saved images"].outcome is Outcome.PASS
    attackable = kind in ("two-stage", "foreign with logits")
    assert (checks["zero gradients, mask path"].outcome is Outcome.SKIP) == (not attackable)
    assert (checks["mask saturation"].outcome is Outcome.SKIP) == (kind == "bare")


def test_a_bare_module_is_the_system_without_a_mask_to_the_bit(small: ModuleType, tmp_path: Path) -> None:
    classifier = small.system().classifier
    bare = evaluated(small, tmp_path / "bare", as_system(classifier))
    none = evaluated(small, tmp_path / "none", TwoStage(classifier, masks=MaskSource.NONE).eval())
    assert_frame_equal(bare, none, check_exact=True)
    assert (bare["adversarial_prediction"] != bare["clean_prediction"]).any()


@pytest.mark.parametrize("kind", ["foreign", "foreign with logits"])
def test_a_foreign_model_of_the_same_function_is_attacked_as_ours_is(small: ModuleType, tmp_path: Path, kind: str) -> None:
    joined = small.system()
    ours, theirs = (evaluated(small, tmp_path / name, built(joined, name)) for name in ("two-stage", kind))
    rounded = [name for name, dtype in ours.schema.items() if dtype == pl.Float64 and name != "epsilon"]
    assert_frame_equal(ours.drop(*rounded, "mask_source"), theirs.drop(*rounded, "mask_source"))
    assert_frame_equal(ours.select(rounded).drop("l1"), theirs.select(rounded).drop("l1"), abs_tol=1e-3)
    assert_frame_equal(ours.select("l1"), theirs.select("l1"), abs_tol=0.05)  # pixels without a slope go either way


def test_masks_and_logits_agree_with_each_asked_alone_and_cost_one_pass_of_the_segmenter(small: ModuleType) -> None:
    images, context = small.pictures()
    for kind in KINDS:
        system = built(small.system(), kind)
        masks, logits = masks_and_logits(system, images, context)
        assert torch.equal(masks, system.masks(images, context))
        assert torch.equal(logits, system(images, context))
    joined = small.system()
    passes: list[int] = []
    joined.segmenter.register_forward_hook(lambda *_: passes.append(1))
    masks_and_logits(joined, images, context)
    assert len(passes) == 1


def test_what_is_no_module_or_gives_no_logits_is_said_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"a system is a torch\.nn\.Module from images to logits, not function"):
        as_system(lambda images: images)
    with pytest.raises(ValueError, match=r"a system gives logits \(images, classes\), not \(2, 3, 4, 4\) for 2 images"):
        as_system(nn.Identity())(torch.rand(2, 3, 4, 4))


def test_the_protocols_tell_our_systems_apart(small: ModuleType) -> None:
    joined = small.system()
    staged = {kind: isinstance(built(joined, kind), StagedSystem) for kind in KINDS}
    assert staged == {"bare": False, "two-stage": True, "foreign": False, "foreign with logits": True}
