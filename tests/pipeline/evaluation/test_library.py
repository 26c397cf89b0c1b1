"""``evaluate`` and ``attack`` from Python: on a run the outcomes of the command, on somebody's own model what is known of it."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from cProfile import Profile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pipeline import MaskConfig, ThreatModel, TwoStage, attack, evaluate, load_system
from pipeline.attacks.specs import ClassAttack, ClassLoss
from pipeline.attacks.threat import Knowledge, Region
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.errors import ConfigError, InputError
from pipeline.evaluation.records import SCHEMA, read_records

SIDE, CLASSES, COUNT = 8, 4, 40


def images_of(count: int = COUNT, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1


class Linear(nn.Module):
    """Two classes by the sign of a scalar product: the smallest perturbation that turns an image is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1)))
        self.offset = nn.Parameter(-(images_of().flatten(1) @ self.weight.detach()).median())

    def score(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight + self.offset

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images), device=images.device), self.score(images)], dim=1)


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    model, images = Linear(), images_of()
    return model, images, model(images).argmax(dim=1)


STEPS = {"pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=5)}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_model_robust_accuracy_is_the_closed_form(linear: tuple[Linear, Tensor, Tensor], norm: str) -> None:
    model, images, labels = linear
    with torch.no_grad():
        length = model.weight.abs().sum() if norm == "linf" else model.weight.norm()
        needed = (model.score(images).abs() / length).sort().values
    epsilons = [0.5 * float(needed[k] + needed[k + 1]) for k in (4, 9, 24)]
    largest = 1 if norm == "linf" else float(model.weight.detach().abs().max() / length)
    assert epsilons[-1] * largest < 0.1, "no image may meet the end of [0,1]"
    result = evaluate(model, [(images, labels)], norm=norm, epsilons=epsilons, attacks=STEPS)  # type: ignore[arg-type]
    assert result.clean_accuracy().value == 1
    assert [result.robust_accuracy(epsilon).value for epsilon in epsilons] == [35 / 40, 30 / 40, 15 / 40]
    estimate = result.robust_accuracy(epsilons[1])
    z, n, share = 1.959963984540054, 40, 30 / 40  # Wilson 1927, by hand
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert (estimate.low, estimate.high) == pytest.approx([(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)])
    assert str(estimate) == f"75.0 % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}] n=40"


def test_outcomes_are_one_row_for_every_image_attack_and_epsilon_with_the_columns_of_records(
    linear: tuple[Linear, Tensor, Tensor],
) -> None:
    model, images, labels = linear
    result = evaluate(model, [(images, labels)], epsilons=[0, "1/255"], attacks=["pgd-margin", "apgd-ce"])
    assert dict(result.outcomes.schema) == SCHEMA
    assert len(result.outcomes) == 40 * 2 * 2
    assert result.outcomes["sample_id"].unique().sort().to_list() == [f"{i:06d}" for i in range(40)]
    assert result.outcomes["mask_source"].unique().to_list() == ["none"]
    assert result.outcomes["clean_mask_iou"].is_nan().all(), "there is no oracle mask to compare with"
    assert result.outcomes.filter(pl.col("epsilon") == 0)["linf"].max() == 0
    with pytest.raises(ValueError, match=r"^epsilon 2/255 was not attacked; these were: 0, 1/255$"):
        result.robust_accuracy("2/255")


def test_neither_the_batches_of_the_loader_nor_its_masks_change_an_outcome_of_a_model_without_masks(
    linear: tuple[Linear, Tensor, Tensor],
) -> None:
    model, images, labels = linear
    masks = torch.zeros(40, SIDE, SIDE, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    loaders: list[Any] = [
        [(images, labels)],
        DataLoader(TensorDataset(images, labels), batch_size=7),
        ((images[i : i + 1], [int(labels[i])], masks[i : i + 1]) for i in range(40)),
    ]
    found = [evaluate(model, loader, epsilons=[4 / 255], attacks=STEPS).outcomes for loader in loaders]
    same = [column for column in SCHEMA if column not in ("seconds", "clean_mask_iou", "adversarial_mask_iou")]
    for other in found[1:]:
        assert_frame_equal(found[0].select(same), other.select(same))


def test_parts_go_on_where_the_last_one_ended_and_max_images_takes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Linear(), images_of(70, seed=3)
    labels = model(images).argmax(dim=1)
    whole = evaluate(model, [(images, labels)], attacks=STEPS).outcomes.drop("seconds")
    monkeypatch.setattr("pipeline.evaluation.library.PART", 16)
    loader = DataLoader(TensorDataset(images, labels), batch_size=9)
    assert_frame_equal(evaluate(model, loader, attacks=STEPS).outcomes.drop("seconds"), whole)
    assert_frame_equal(evaluate(model, loader, attacks=STEPS, max_images=35).outcomes.drop("seconds"), whole.head(35))


def trained(synthetic_set: Path, runs: Path, words: list[str]) -> pl.DataFrame:
    common = [f"prepared={synthetic_set}", f"classifier_run={runs / 'classifier'}", "accelerator=cpu", "max_images=20"]
    assert main(["evaluate", *common, *words]) == 0
    return read_records(next(Path(word.removeprefix("run=")) for word in words if word.startswith("run=")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_on_a_run_the_outcomes_are_those_of_the_command_to_the_bit(synthetic_set: Path, runs: Path, tmp_path: Path) -> None:
    words = ["attack=quickstart", "attack.threat.epsilons=[2/255,8/255]", f"run={tmp_path / 'run'}", "seed=3", "gallery_images=0"]
    recorded = trained(synthetic_set, runs, words)
    result = evaluate(
        load_system(runs / "classifier"),
        synthetic_set,
        epsilons=["2/255", "8/255"],
        attacks="quickstart",
        max_images=20,
        seed=3,
    )
    order = ["epsilon", "attack", "sample_id"]
    differing = ["seconds", "system"]  # the command's digest is of the files, which a module does not have
    assert set(recorded["attack"]) == {"pgd", "apgd-targeted", "joint-collapse"}
    assert_frame_equal(result.outcomes.drop(differing).sort(order), recorded.drop(differing).sort(order), check_exact=True)
    again = evaluate(load_system(tmp_path / "run"), open_prepared(synthetic_set), attacks=STEPS, max_images=20)
    assert again.clean_accuracy() == result.clean_accuracy()


def two_stage(source: str = "learned") -> TwoStage:
    torch.manual_seed(2)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 3, padding=1))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    return TwoStage(classifier, segmenter=segmenter, masks=MaskConfig(source=source), fill="grey")  # type: ignore[arg-type]


def labels_of(system: nn.Module, images: Tensor, *context: Any) -> Tensor:
    with torch.no_grad():
        labels: Tensor = system(images, *context).argmax(dim=1)
    return labels


@pytest.mark.parametrize("name", ["pgd-margin", "apgd-ce", "joint-collapse", "guided-flood", "invert-clean"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacked_images_are_in_the_ball_and_in_range(name: str, norm: str) -> None:
    system, images = two_stage(), images_of(6)
    epsilon = 0.05 if norm == "linf" else 0.5
    adversarial = attack(system, images, labels_of(system, images), name, epsilon=epsilon, norm=norm)  # type: ignore[arg-type]
    changes = (adversarial - images).double().flatten(1)
    sizes = changes.abs().amax(dim=1) if norm == "linf" else changes.norm(dim=1)
    assert 0 < sizes.max() <= epsilon * (1 + 1e-6)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


def test_an_attack_goes_to_its_end_on_a_linear_model(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    spec = ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=5)
    adversarial = attack(model, images, labels, spec, epsilon=0.02)
    towards = (1 - 2 * labels).view(-1, 1).to(images.dtype) * model.weight.detach().sign()
    torch.testing.assert_close(adversarial.flatten(1), images.flatten(1) + 0.02 * towards, rtol=0, atol=1e-6)


def test_oracle_masks_reach_a_system_that_is_made_for_them() -> None:
    system, images = two_stage("oracle"), images_of(6)
    masks = torch.zeros(6, 1, SIDE, SIDE)
    masks[..., 2:6, 2:6] = 1
    with pytest.raises(InputError, match=r"oracle"):
        evaluate(system, [(images, torch.zeros(6, dtype=torch.int64))], attacks=STEPS)
    background = ThreatModel(region="background", epsilons=(1.0,))  # type: ignore[arg-type]
    seen = system.masked_images(images, masks)
    labels = labels_of(system.classifier, seen)
    result = evaluate(system, [(images, labels, masks)], threat=background, attacks=STEPS)
    assert result.robust_accuracy(1.0).value == 1, "through an oracle mask and a constant fill the background is not seen"
    assert result.outcomes["clean_mask_iou"].to_list() == [1.0] * 6
    assert "robust accuracy, linf 1 on the background 100.0 %" in str(result)


@pytest.mark.parametrize("region", list(Region))
@pytest.mark.parametrize("knowledge", list(Knowledge))
def test_what_an_attacker_may_less_is_said_beside_every_figure(region: Region, knowledge: Knowledge) -> None:
    limits = ThreatModel(region=region, knowledge=knowledge).limits
    assert (region.value in limits) == (region != Region.EVERYWHERE)
    assert ("seeds hidden" in limits) == (knowledge != Knowledge.WHITE_BOX)


def test_the_system_is_as_it_was_also_in_train_mode() -> None:
    system, images = two_stage(), images_of(6)
    labels = labels_of(system, images)
    system.train()
    state = {name: value.clone() for name, value in system.state_dict().items()}
    modes = [module.training for module in system.modules()]
    asking = [parameter.requires_grad for parameter in system.parameters()]
    before = torch.random.get_rng_state()
    evaluate(system, [(images, labels)], attacks=STEPS)
    attack(system, images, labels, STEPS["pgd"])
    assert [module.training for module in system.modules()] == modes
    assert [parameter.requires_grad for parameter in system.parameters()] == asking
    assert all(torch.equal(value, state[name]) for name, value in system.state_dict().items())
    assert all(parameter.grad is None for parameter in system.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_diagnostics_are_made_where_they_are_asked_for() -> None:
    system, images = two_stage(), images_of(4)
    result = evaluate(system, [(images, labels_of(system, images))], epsilons=[0.01], attacks=STEPS, diagnostics=True)
    assert result.checks is not None
    names = [check.name for check in result.checks]
    assert "zero gradients, pixel path" in names
    assert "loss against steps" in " ".join(names)
    assert "sanity" in str(result)
    assert evaluate(system, [(images, labels_of(system, images))], attacks=STEPS).checks is None


class InHalf(nn.Module):
    """Computes in bfloat16 inside, as what was trained under autocast may."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.network(images)
        return logits.float()


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (InHalf, "it computes in bfloat16 inside"),
        (lambda network: nn.Sequential(network, nn.Softmax(dim=1)), "the outputs look like probabilities"),
    ],
)
def test_what_hides_gradients_without_intent_is_named_before_what_a_cheat_would_have_to_mend(
    kind: Callable[[nn.Module], nn.Module], first: str
) -> None:
    images = images_of(8)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with torch.no_grad():
        network[1].weight *= 100
    system = kind(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = evaluate(system, [(images, labels_of(system, images))], epsilons=[0.002], attacks=STEPS, diagnostics=True)
    assert result.checks is not None
    failed = {check.name: check.advice for check in result.checks if check.outcome == "FAIL"}
    assert failed["gradients against differences"].startswith(first)


class BlindToBrightOnes(Linear):
    """No gradient of bright images says anything."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.where(images.mean(dim=(1, 2, 3))[:, None] > 0.6, logits.detach(), logits)


@pytest.mark.slow
def test_diagnostics_look_at_images_from_all_over_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.library.PART", 16)
    system, dark = BlindToBrightOnes(), images_of(32)
    images = torch.cat([dark, (dark + 1) / 2])  # as loaders of folders give class after class
    labels = system(images).argmax(dim=1)
    result = evaluate(system, [(images, labels)], epsilons=[0.002], attacks=STEPS, diagnostics=True)
    assert result.checks is not None
    failed = {check.name for check in result.checks if check.outcome == "FAIL"}
    assert "zero gradients, pixel path" in failed


class Unfriendly(nn.Module):
    """Somebody's own module that no copy takes: it holds a constant of one type, and looks at its memory by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIDE * SIDE, CLASSES)
        self.scale = [torch.ones(1) * 2]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.view(len(images), -1) * self.scale[0])
        return logits


def test_a_module_that_cannot_be_copied_for_speed_is_attacked_itself() -> None:
    torch.manual_seed(0)
    model, images = Unfriendly(), images_of(10)
    labels = labels_of(model, images)
    result = evaluate(model, [(images, labels)], epsilons=[0.3], attacks=STEPS)
    assert result.robust_accuracy(0.3).value == 0


class Wrapped(nn.Module):
    def __init__(self, change: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.change = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)), change

    def forward(self, images: Tensor) -> Any:
        logits = self.body(images)
        changed = {"nothing": logits, "softmax": logits.softmax(1), "log_softmax": logits.log_softmax(1), "tuple": (logits,)}
        return (changed | {"cut": logits.detach()})[self.change]


def test_probabilities_are_warned_about_and_their_logs_are_attacked_as_the_logits_are() -> None:
    images = images_of(5)
    labels = labels_of(Wrapped("nothing"), images)
    with pytest.warns(UserWarning, match=r"^the outputs look like probabilities"):
        evaluate(Wrapped("softmax"), [(images, labels)], attacks=STEPS)
    plain, logs = (evaluate(Wrapped(change), [(images, labels)], attacks=STEPS).outcomes for change in ("nothing", "log_softmax"))
    assert plain["status"].equals(logs["status"])
    torch.testing.assert_close(plain["adversarial_margin"].to_torch(), logs["adversarial_margin"].to_torch(), atol=1e-3, rtol=1e-3)


def test_a_model_that_cuts_the_gradient_is_told_in_one_line() -> None:
    images = images_of(5)
    with pytest.raises(InputError, match=r"^no gradient reaches the images [^\n]*attack=decision"):
        evaluate(Wrapped("cut"), [(images, labels_of(Wrapped("nothing"), images))], attacks=STEPS)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "bfloat16 by default": lambda: default_type(torch.bfloat16),
    "float64 by default": lambda: default_type(torch.float64),
    "a profiler": Profile,
    "floating-point errors": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_the_caller_has_switched_on_changes_no_outcome(linear: tuple[Linear, Tensor, Tensor], name: str) -> None:
    model, images, labels = linear
    call = {"epsilons": [1 / 255, 3 / 255], "attacks": STEPS}
    expected = evaluate(model, [(images, labels)], **call)  # type: ignore[arg-type]
    with SURROUNDINGS[name]():
        found = evaluate(model, [(images, labels)], **call)  # type: ignore[arg-type]
    assert found.outcomes.drop("seconds").equals(expected.outcomes.drop("seconds"))


def test_inference_mode_is_named_and_not_the_model(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    with torch.inference_mode():
        for call in (lambda: evaluate(model, [(images, labels)]), lambda: attack(model, images, labels)):
            with pytest.raises(InputError, match=r"inference_mode\(\) is on.* outside"):
                call()


def test_a_system_that_writes_into_its_images_in_some_batches_alone_is_refused_where_it_does(
    linear: tuple[Linear, Tensor, Tensor],
) -> None:
    """The few images that a system is asked about beforehand need not be among them."""
    model, images, labels = linear
    model.register_forward_pre_hook(lambda _, given: given[0].mul_(0.5) if len(given[0]) == COUNT else None)
    with pytest.raises(InputError, match=r"^the system writes into the images"):
        evaluate(model, [(images, labels)], attacks=STEPS, epsilons=[0.1], batch_size=COUNT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("uint8", r"images are uint8"),
        ("labels", r"labels go from 0 to 9, expected 0 to 1: the system has 2 classes"),
        ("tuple", r"the model returns a tuple of 1"),
        ("empty", r"the data hold no batch"),
        ("sizes", r"the images of the data differ in size \(\(8, 8\), \(8, 9\)\): resize them alike"),
        ("masks", r"some batches of the data have masks and others have none"),
    ],
)
def test_mistakes_are_told_in_one_line(linear: tuple[Linear, Tensor, Tensor], change: str, said: str) -> None:
    model, images, labels = linear
    wide, masks = torch.rand(2, 3, SIDE, SIDE + 1), torch.ones(40, 1, SIDE, SIDE)
    data: dict[str, Any] = {
        "uint8": [((images * 255).byte(), labels)],
        "labels": [(images, torch.arange(40) % 10)],
        "tuple": [(images, labels)],
        "empty": [],
        "sizes": [(images, labels), (wide, labels[:2])],
        "masks": [(images, labels), (images, labels, masks)],
    }
    system = Wrapped("tuple") if change == "tuple" else model
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        evaluate(system, data[change], attacks=STEPS)


def test_a_generator_that_was_used_up_is_told_from_a_robust_model(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear

    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield images, labels

    data = once()
    evaluate(model, data, attacks=STEPS)
    with pytest.raises(InputError, match="a generator can be gone through only once"):
        evaluate(model, data, attacks=STEPS)


@pytest.mark.parametrize("as_numpy", [True, False])
def test_a_generator_may_fill_the_same_memory_again(linear: tuple[Linear, Tensor, Tensor], as_numpy: bool) -> None:
    """Each batch was the last one, as often as there were batches."""
    model, images, labels = linear

    def refilled() -> Iterator[tuple[Any, Any]]:
        held = torch.empty(8, 3, SIDE, SIDE), torch.empty(8, dtype=torch.int64)
        for first in range(0, COUNT, 8):
            for memory, values in zip(held, (images, labels), strict=True):
                memory.copy_(values[first : first + 8])
            yield tuple(memory.numpy() for memory in held) if as_numpy else held  # type: ignore[misc]

    found = [evaluate(model, data, epsilons=[4 / 255], attacks=STEPS).outcomes for data in ([(images, labels)], refilled())]
    assert_frame_equal(*(outcomes.drop("seconds") for outcomes in found))


class Unshared(IterableDataset):
    """Every worker gives all images."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[Any]:
        return zip(*self.tensors, strict=True)


def test_images_that_the_data_give_again_are_warned_about(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    loader = DataLoader(Unshared(images, labels), batch_size=20, num_workers=2)
    with pytest.warns(UserWarning, match="40 of the 80 images of the data are copies of others"):
        evaluate(model, loader, epsilons=[4 / 255], attacks=STEPS)
    evaluate(model, [(images, labels), (images[:1], labels[:1])], epsilons=[4 / 255], attacks=STEPS)  # one of forty is no slip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels + 1, "counted from another number than the system's classes (label and answer: 1 0, 2 1, 3 2, 4 3)"),
        (lambda labels: torch.tensor([1, 2, 3, 0])[labels], "in another order than the system's classes"),
        (lambda labels: labels, None),
        (lambda labels: (labels * 7 + torch.arange(40)) % 4, None),
    ],
    ids=["from 1", "in another order", "right", "noise"],
)
def test_labels_that_are_numbered_otherwise_than_the_classes_are_warned_about(change: Any, said: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES + 1))
    nn.init.constant_(model[1].bias[-1:], -99.0)
    images = images_of()
    right = torch.arange(40) % 4
    images += 0.1 * torch.stack([model[1].weight[label].detach().view(3, SIDE, SIDE).sign() for label in right])
    images = images.clamp(0, 1)
    right = model(images).argmax(1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(model, [(images, change(right))], epsilons=[4 / 255], attacks=STEPS)
    assert len(told) == (said is not None)
    assert said is None or said in str(told[0].message)


def test_a_constant_predictor_is_named_also_without_diagnostics_and_by_its_class(synthetic_set: Path) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(1, 2, 3))[:, None] * 1e-3 + torch.eye(dataset.num_classes)[1] + 0 * images.flatten(1)[:, :1]

    dataset = open_prepared(synthetic_set)
    told = str(evaluate(Constant(), dataset, epsilons=[1 / 255], attacks=STEPS, max_images=6, diagnostics=True)).splitlines()
    named = [line for line in told if repr(dataset.classes[1]) in line]
    assert named[0].startswith("BEWARE: 100% of its answers")
    assert len(named) == 2  # and the check
    assert not any("class 1," in line for line in told)
    loader = [(torch.from_numpy(dataset.images[:8].copy()).permute(0, 3, 1, 2) / 255, torch.arange(8) % 2)]
    assert "BEWARE: 100% of its answers on clean images are class 1" in str(evaluate(Constant(), loader, attacks=STEPS))


def test_names_of_attacks_and_suites_are_looked_up_and_near_ones_named(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    with pytest.raises(ConfigError, match=r"^there is no suite and no attack 'apgd-margn': did you mean apgd-margin or [^\n]*$"):
        attack(model, images, labels, "apgd-margn")
    with pytest.raises(ConfigError, match=r"^there is no suite and no attack 'standart': did you mean standard[^\n]*$"):
        evaluate(model, [(images, labels)], attacks="standart")
    for suite_for_an_attack in (
        lambda: attack(model, images, labels, "fast"),
        lambda: evaluate(model, [(images, labels)], attacks=["pgd", "fast"]),
    ):
        with pytest.raises(ConfigError, match=r"^'fast' is a suite, and an attack is meant: name one of pgd-margin, [^\n]*$"):
            suite_for_an_attack()
    with pytest.raises(ConfigError, match=r"none applies to this system"):
        attack(model, images, labels, "joint-collapse")
    with pytest.raises(ConfigError, match=r"8/255, never 8"):
        evaluate(model, [(images, labels)], epsilons=[8])


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("batch_size", 0, "batch_size: [^\n]* greater than or equal to 1, got 0"),
        ("seed", -1, "seed: [^\n]* greater than or equal to 0, got -1"),
        ("seed", True, "seed: a number is meant, neither true nor false, got True"),
        ("max_images", 0, "max_images: [^\n]* greater than or equal to 1, got 0"),
        ("max_images", -1, "max_images: [^\n]*, got -1"),
    ],
)
def test_a_setting_that_cannot_be_is_named_before_anything_is_attacked(
    linear: tuple[Linear, Tensor, Tensor], setting: str, value: int, named: str
) -> None:
    model, images, labels = linear
    settings: dict[str, Any] = {"attacks": STEPS, setting: value}
    with pytest.raises(ConfigError, match=rf"^{named}$"):
        evaluate(model, [(images, labels)], **settings)


@pytest.mark.parametrize("epsilons", [8 / 255, "8/255"])
def test_one_epsilon_needs_no_brackets(linear: tuple[Linear, Tensor, Tensor], epsilons: Any) -> None:
    model, images, labels = linear
    assert evaluate(model, [(images, labels)], epsilons=epsilons, attacks=STEPS).threat.epsilons == (8 / 255,)


@pytest.mark.parametrize(("setting", "value"), [("epsilon", "8/0"), ("epsilon", True), ("batch_size", 0), ("seed", -1)])
def test_a_setting_of_one_attack_that_cannot_be_is_named(
    linear: tuple[Linear, Tensor, Tensor], setting: str, value: object
) -> None:
    model, images, labels = linear
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(ConfigError, match=rf"{setting}[^\n]*, got {value!r}"):
        attack(model, images, labels, STEPS["pgd"], **settings)


def test_a_prepared_set_of_other_classes_is_refused(synthetic_set: Path, small: ModuleType) -> None:
    del small
    model = nn.Sequential(nn.AdaptiveAvgPool2d(SIDE), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    with pytest.raises(InputError, match=r"(the system has 3 classes|expected 0 to 2)"):
        evaluate(model, synthetic_set, attacks=STEPS)
