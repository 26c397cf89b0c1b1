"""The diagnostics against the records: what fell although it is recorded as robust, and what is recorded and does not stand."""

import copy
from dataclasses import replace
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import beta
from torch import Tensor, nn

from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.runner import run_attack
from pipeline.attacks.specs import ClassAttack, ClassLoss
from pipeline.attacks.start import AttackStart
from pipeline.attacks.tracker import verdict
from pipeline.errors import NumberError
from pipeline.evaluation.against_records import records_repeat, successes_stand, survivors_misclassified
from pipeline.evaluation.diagnostics import sanity_checks
from pipeline.evaluation.evaluator import EvaluationRun, attack_images
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import MemoryStore
from pipeline.masks.config import MaskSource
from pipeline.system import System, as_system

CPU = torch.device("cpu")
EPSILON = 0.03
STRONG = {"strong": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=40)}
WEAK = {"one step": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=1)}


def recorded(run: EvaluationRun) -> pl.DataFrame:
    store = MemoryStore()
    attack_images(run, store, device=CPU, advance=lambda _: None)
    return store.records()


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) * self.factor
        return logits


class Steady(nn.Module):
    """Says one class, whatever it sees."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean(dim=(1, 2, 3))[:, None].repeat(1, 4)
        logits[:, self.label] += 5
        return logits


class OtherCopy(nn.Module):
    """Its deep copy answers with the next class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shift = network, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.roll(self.shift, dims=1)

    def __deepcopy__(self, memo: dict[int, object]) -> "OtherCopy":
        other = OtherCopy(copy.deepcopy(self.network, memo))
        other.shift = 1
        return other


class Numberless(nn.Module):
    """Not a number for the brightest image of the set."""

    def __init__(self, network: nn.Module, brightest: float, value: float) -> None:
        super().__init__()
        self.network, self.brightest, self.value = network, brightest, value

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3), keepdim=True).flatten(1) >= self.brightest
        logits: Tensor = self.network(images)
        return logits.masked_fill(bright, self.value)


def bare(small: ModuleType) -> nn.Module:
    classifier: nn.Module = small.system(MaskSource.NONE).classifier
    return classifier


def pretending(records: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Records that say of the images that fell that they stand, and which."""
    fell = (pl.col("clean_prediction") == pl.col("label")) & (pl.col("adversarial_prediction") != pl.col("label"))
    hidden = records.filter(fell)["sample_id"].sort().to_list()
    pretended = pl.when(pl.col("sample_id").is_in(hidden)).then(pl.col("label")).otherwise(pl.col("adversarial_prediction"))
    return records.with_columns(adversarial_prediction=pretended), hidden


def tried_again(run: EvaluationRun, records: pl.DataFrame) -> tuple[Check, list[str], int]:
    """The check of all recorded survivors by the attack that finds some, which, and how many were tried."""
    robust = set(robust_images(records, EPSILON).filter("robust")["sample_id"])
    rows = np.array([row for row, one in zip(run.rows, run.sample_ids(run.rows), strict=True) if one in robust])
    batch, ids = run.batch(rows, CPU), run.sample_ids(rows)
    found = run_attack("again", STRONG["strong"], batch, threat=run.suite.threat, epsilon=EPSILON, run_seed=9)
    misclassified = [one for one, wrong in zip(ids, found.misclassified.tolist(), strict=True) if wrong]
    points = {"again": found.images, "none": batch.images[:2]}
    return survivors_misclassified(ids, batch, points, records, EPSILON), misclassified, len(ids)


@pytest.mark.slow
def test_what_falls_of_the_recorded_survivors_is_named_and_worth_its_share_of_the_images(small: ModuleType) -> None:
    run = small.evaluation_run(MaskSource.NONE, attacks=STRONG, epsilons=(EPSILON,))
    records, hidden = pretending(recorded(run))
    check, misclassified, tried = tried_again(run, records)
    assert len(hidden) > 5
    assert set(misclassified) >= set(hidden)
    assert check.outcome is Outcome.FAIL
    assert check.figures["points"] == pytest.approx(100 * len(misclassified) / small.IMAGES)
    assert check.figures["points_extrapolated"] == pytest.approx(
        100 * len(misclassified) / small.IMAGES
    )  # all survivors were tried
    # Clopper and Pearson, by the quantile of the beta distribution
    least = beta.ppf(0.025, len(misclassified), tried - len(misclassified) + 1) * 100 * tried / small.IMAGES
    assert check.figures["points_least"] == pytest.approx(least)
    assert f"{misclassified[0]} (again)" in check.finding
    by_name = {one.name: one for one in sanity_checks(run, MemoryStore(), records, num_images=8, device=CPU)}
    assert by_name["survivors misclassified"].outcome is Outcome.FAIL
    assert by_name["survivors misclassified"].figures["tried"] == 8


def test_a_single_survivor_that_falls_is_told_and_may_be_chance(small: ModuleType) -> None:
    run = small.evaluation_run(MaskSource.NONE, attacks=STRONG, epsilons=(0.004,))
    records = recorded(run)
    robust = set(robust_images(records, 0.004).filter("robust")["sample_id"])
    rows = np.array([row for row, one in zip(run.rows, run.sample_ids(run.rows), strict=True) if one in robust])
    batch, ids = run.batch(rows, CPU), run.sample_ids(rows)
    points = batch.images.clone()
    points[2] = batch.images[(batch.labels != batch.labels[2]).nonzero()[0, 0]]  # another image, of another class
    check = survivors_misclassified(ids, batch, {"somewhere": points}, records, 0.004)
    assert (check.outcome, check.figures["misclassified"]) == (Outcome.PASS, 1)
    assert f"{ids[2]} (somewhere)" in check.finding
    nothing = survivors_misclassified(ids, batch, {"none": batch.images}, records, 0.004)
    assert (nothing.outcome, nothing.figures["points"]) == (Outcome.PASS, 0)


class OntoTheBoundary(ClassAttack):
    """Ends at the first misclassified number of the line to the point that was found, as FAB does."""

    def run(self, start: AttackStart) -> Tensor:
        found, batch = super().run(start), start.batch
        low, high = torch.zeros(len(batch), 1, 1, 1), torch.ones(len(batch), 1, 1, 1)
        for _ in range(24):
            middle = (low + high) / 2
            points = torch.lerp(batch.images, found, middle)
            wrong = verdict(batch.system, points, batch.labels, batch.context).misclassified.view(-1, 1, 1, 1)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return torch.lerp(batch.images, found, high)


class RoundedAlone(nn.Module):
    """Honest, but rounded otherwise in batches of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + (1e-6 if len(images) == 1 else 0) * torch.linspace(-1, 1, logits.shape[1])


def test_points_on_the_decision_boundary_stand_for_an_honest_system(small: ModuleType) -> None:
    attacks = {"onto": OntoTheBoundary(loss=ClassLoss.MARGIN, num_steps=10)}
    run = small.evaluation_run(attacks=attacks, epsilons=(EPSILON,), joined=as_system(RoundedAlone(bare(small)).eval()))
    records = recorded(run)
    fell = records.filter((pl.col("adversarial_prediction") != pl.col("label")) & (pl.col("clean_prediction") == pl.col("label")))
    assert float(fell["adversarial_margin"].min()) < 1e-6 < 1e-3 * float(records["clean_margin"].abs().median())
    check = successes_stand(run, records, EPSILON, 20)
    assert check.outcome is Outcome.PASS, check.finding
    assert check.figures["claimed"] > 0


def test_successes_that_do_not_recur_say_nothing(small: ModuleType) -> None:
    run = small.evaluation_run(MaskSource.NONE, attacks=STRONG, epsilons=(EPSILON,))
    records = recorded(run)
    fell = records.filter((pl.col("adversarial_prediction") != pl.col("label")) & (pl.col("clean_prediction") == pl.col("label")))
    steady = as_system(Steady(fell["label"][0]).eval())
    one = records.filter(pl.col("sample_id") == fell["sample_id"][0])
    check = successes_stand(replace(run, system=steady), one, EPSILON, 4)
    assert (check.outcome, check.finding) == (Outcome.SKIP, "none of 1 successes recurred when the attacks ran again")


def test_what_the_suite_found_holds_for_a_fresh_copy_of_an_honest_system_and_not_for_one_whose_copy_is_another(
    small: ModuleType,
) -> None:
    honest = small.evaluation_run(MaskSource.NONE, attacks=WEAK, epsilons=(EPSILON,))
    check = successes_stand(honest, recorded(honest), EPSILON, 6)
    assert check.outcome is Outcome.PASS
    assert check.figures["claimed"] == 6
    other = small.evaluation_run(attacks=WEAK, epsilons=(EPSILON,), joined=as_system(OtherCopy(bare(small)).eval()))
    records = recorded(other)
    check = successes_stand(other, records, EPSILON, 6)
    repeated = records_repeat(other.sample_ids(other.rows), other.batch(other.rows, CPU), records)
    assert repeated.outcome is Outcome.FAIL
    assert "s00" in repeated.finding
    assert check.outcome is Outcome.FAIL
    assert check.figures["points"] == pytest.approx(100 * check.figures["lost"] / small.IMAGES)


def test_records_repeat_of_an_honest_system_and_not_where_one_margin_is_another(small: ModuleType) -> None:
    run = small.evaluation_run(epsilons=(0.004,), attacks=WEAK)
    records, ids, batch = recorded(run), run.sample_ids(run.rows), run.batch(run.rows, CPU)
    assert records_repeat(ids, batch, records).outcome is Outcome.PASS
    moved = records.with_columns(pl.col("clean_margin") + pl.when(pl.col("sample_id") == "s07").then(1.0).otherwise(0.0))
    check = records_repeat(ids, batch, moved)
    assert (check.outcome, check.figures["changed"]) == (Outcome.FAIL, 1)
    assert "(s07)" in check.finding


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_told_by_the_ids_of_the_images(small: ModuleType, value: float) -> None:
    images, _ = small.pictures()
    brightest = images.mean(dim=(1, 2, 3))
    numberless = Numberless(bare(small), float(brightest.topk(2).values.min()), value)
    run = small.evaluation_run(joined=small.system(MaskSource.NONE), attacks=WEAK, epsilons=(EPSILON,))
    run = replace(run, system=as_system(numberless.eval()))
    with pytest.raises(NumberError) as caught:
        recorded(run)
    first = run.sample_ids(run.rows[: run.chunk_size])
    expected = {one for one, row in zip(first, run.rows, strict=False) if row in brightest.topk(2).indices}
    assert expected
    assert set(str(caught.value).rsplit(": ", 1)[1].split(", ")) == expected


def scaled(small: ModuleType, factor: float) -> System:
    joined = small.system()
    joined.classifier = Scaled(joined.classifier, factor)
    return joined.eval()


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_scale_of_the_logits(small: ModuleType) -> None:
    verdicts = []
    for factor in (1.0, 1e-4, 1e4):
        run = small.evaluation_run(joined=scaled(small, factor), attacks=WEAK, epsilons=(0.01,), batch_size=16)
        checks = sanity_checks(run, MemoryStore(), recorded(run), num_images=4, device=CPU)
        verdicts.append({check.name: check.outcome for check in checks})
    assert verdicts[1:] == 2 * verdicts[:1]
    assert verdicts[0]["gradients against differences"] is Outcome.PASS
