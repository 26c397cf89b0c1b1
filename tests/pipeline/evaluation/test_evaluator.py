"""An evaluation against attacking every image alone, against itself after SIGKILL, and against its own saved images."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.special
import torch
from polars.testing import assert_frame_equal

from pipeline.attacks.acceleration import attacked_copy
from pipeline.attacks.runner import run_attack
from pipeline.attacks.specs import ClassAttack, ClassLoss
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import ThreatModel
from pipeline.data.loader import read_rows
from pipeline.errors import RunError
from pipeline.evaluation.chunks import Chunk, choose_rows
from pipeline.evaluation.evaluator import (
    EvaluationRun,
    EvaluationSettings,
    applicable,
    attack_again,
    attack_chunk,
    attack_images,
)
from pipeline.evaluation.metrics import clean_accuracy, curve, robust_accuracy, robust_images
from pipeline.evaluation.records import MemoryStore, RecordStore, Status, read_records
from pipeline.evaluation.rescoring import rescore
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext

CPU = torch.device("cpu")


def evaluate(run: EvaluationRun, path: Path) -> pl.DataFrame:
    finished: list[int] = []
    attack_images(run, RecordStore(path), device=CPU, advance=finished.append)
    return read_records(path).sort("sample_id", "epsilon", "attack")


@pytest.mark.parametrize("source", [MaskSource.LEARNED, pytest.param(MaskSource.NONE, marks=pytest.mark.slow)])
def test_an_image_is_misclassified_exactly_where_it_would_be_alone(small: ModuleType, tmp_path: Path, source: MaskSource) -> None:
    attacks = small.ATTACKS | small.SQUARE if source.is_learned else {"pgd": small.ATTACKS["pgd"]}
    run = small.evaluation_run(source, attacks=attacks, epsilons=(0.01,))
    robust = robust_images(evaluate(run, tmp_path), 0.01)["robust"].to_list()
    alone = []
    for row in range(small.IMAGES):
        batch = read_rows(run.dataset, np.array([row]))
        context = MaskContext(oracle_masks=batch.masks, substitutes=batch.substitutes, sample_seeds=batch.seeds)
        image = AttackBatch(system=run.system, images=batch.images, labels=batch.labels, context=context, seeds=batch.seeds)
        found = [run_attack(name, spec, image, threat=run.suite.threat, epsilon=0.01, run_seed=3) for name, spec in attacks.items()]
        alone.append(not any(bool(each.misclassified) for each in found))
    assert robust == alone
    assert 0 < sum(alone) < small.IMAGES - small.WRONG


@pytest.mark.parametrize(
    ("batch_size", "chunk_size"),
    [(5, 4), pytest.param(1, 30, marks=pytest.mark.slow), pytest.param(30, 30, marks=pytest.mark.slow)],
)
def test_neither_batch_nor_chunk_changes_a_verdict(small: ModuleType, tmp_path: Path, batch_size: int, chunk_size: int) -> None:
    reference = evaluate(small.evaluation_run(epsilons=(0.004, 0.01)), tmp_path / "reference")
    other = evaluate(small.evaluation_run(epsilons=(0.004, 0.01), batch_size=batch_size, chunk_size=chunk_size), tmp_path / "other")
    rounded = ("clean_margin", "adversarial_margin", "linf", "l2", "clean_mask_iou", "adversarial_mask_iou", "seconds")
    means = ("clean_mask_mean", "adversarial_mask_mean", "clean_confidence", "adversarial_confidence")
    assert_frame_equal(reference.drop(*rounded, *means, "l1"), other.drop(*rounded, *means, "l1"))
    assert_frame_equal(reference.select(rounded[:-1]), other.select(rounded[:-1]), abs_tol=1e-3)
    assert_frame_equal(reference.select("l1"), other.select("l1"), abs_tol=0.05)  # five pixels without a slope go either way


def test_a_part_that_another_attack_has_made_is_refused(small: ModuleType, tmp_path: Path) -> None:
    """A suite in another order gives the positions of its attacks to others: none may pass for one that was never run."""
    attacks = dict(list(small.ATTACKS.items())[:2])
    evaluate(small.evaluation_run(attacks=attacks, epsilons=(0.004,)), tmp_path)
    for part in list((tmp_path / "records").glob("*-01.*")) + list((tmp_path / "images").glob("*-01.*")):
        part.unlink()
    turned = dict(reversed(attacks.items()))
    with pytest.raises(RunError, match=f"was made with attack {next(iter(attacks))}, not {next(iter(turned))}"):
        evaluate(small.evaluation_run(attacks=turned, epsilons=(0.004,)), tmp_path)


def test_every_record_names_the_group_of_its_image(small: ModuleType, tmp_path: Path) -> None:
    run = small.evaluation_run(epsilons=(0.004,))
    records = evaluate(run, tmp_path)
    groups = dict(run.dataset.samples.select("sample_id", "group").iter_rows())
    assert records["group"].to_list() == [groups[sample_id] for sample_id in records["sample_id"]]


def test_epsilon_zero_is_clean_accuracy_and_the_curve_never_rises(small: ModuleType, tmp_path: Path) -> None:
    records = evaluate(small.evaluation_run(), tmp_path)
    points = curve(records, np.random.default_rng(0))
    values = [point.robust_accuracy.value for point in points]
    assert values[0] == clean_accuracy(records).value == 1 - small.WRONG / small.IMAGES
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[1] < values[0]
    for point in points:  # the worst case of the suite is what is left after its last attack
        assert list(point.by_attack.values())[-1] == point.robust_accuracy
        assert point.robust_accuracy == robust_accuracy(records, point.epsilon)
    at_zero = records.filter(pl.col("epsilon") == 0)
    assert (at_zero["linf"] == 0).all()
    assert (at_zero["clean_prediction"] == at_zero["adversarial_prediction"]).all()


def test_nothing_is_attacked_that_is_misclassified_already(small: ModuleType, tmp_path: Path) -> None:
    records = evaluate(small.evaluation_run(), tmp_path)
    wrong = records.filter(pl.col("clean_prediction") != pl.col("label"))
    assert set(wrong["status"]) == {Status.WRONG_CLEAN}
    assert wrong["sample_id"].n_unique() == small.WRONG
    for (sample,), history in records.group_by("sample_id"):
        order = {name: number for number, name in enumerate(small.ATTACKS)}
        rows = history.sort("epsilon", pl.col("attack").replace_strict(order)).rows(named=True)
        fell = [row for row in rows if row["adversarial_prediction"] != row["label"]]
        after = rows[rows.index(fell[0]) + 1 :] if fell else []
        assert all(row["status"] != Status.ATTACKED for row in after), sample
        assert all(row["seconds"] == 0 for row in after)
        assert all((row["found_by"], row["found_epsilon"]) == (fell[0]["found_by"], fell[0]["found_epsilon"]) for row in after)


def test_with_attack_all_every_attack_meets_every_image_and_is_at_least_as_strong(small: ModuleType, tmp_path: Path) -> None:
    settled = evaluate(small.evaluation_run(epsilons=(0.01,)), tmp_path / "settled")
    kept = evaluate(small.evaluation_run(epsilons=(0.01,), attack_all=True), tmp_path / "kept")
    right = kept.filter(pl.col("clean_prediction") == pl.col("label"))
    assert set(right["status"]) == {Status.ATTACKED}
    assert_frame_equal(robust_images(settled, 0.01), robust_images(kept, 0.01))
    both = right.join(settled.filter(pl.col("status") == Status.ATTACKED), on=["sample_id", "attack"])
    assert (both["adversarial_margin"] >= both["adversarial_margin_right"] - 1e-5).all()
    assert (both["adversarial_margin"] > both["adversarial_margin_right"] + 1e-3).any()


def test_saved_images_score_as_recorded_and_a_changed_one_is_noticed(small: ModuleType, tmp_path: Path) -> None:
    run, store = small.evaluation_run(epsilons=(0.004, 0.01), save_images=True), RecordStore(tmp_path)
    records = evaluate(run, tmp_path)
    again = rescore(run, store, device=CPU)
    assert again.changed == ()
    assert again.num_images == (records["status"] == Status.ATTACKED).sum() > 15
    unit = run.units(0)[0]
    images, part = store.read_images(unit), store.read(unit)
    store.write(unit, part, np.clip(images + 0.02, 0, 1))
    assert set(rescore(run, store, device=CPU).changed) == set(part.filter(pl.col("status") == Status.ATTACKED)["sample_id"])


def test_what_a_search_in_bf16_finds_is_judged_in_float32(small: ModuleType, tmp_path: Path) -> None:
    run, store = small.evaluation_run(epsilons=(0.01,), save_images=True, precision="bf16"), RecordStore(tmp_path / "bf16")
    records = evaluate(run, tmp_path / "bf16")
    assert rescore(run, store, device=CPU).changed == ()
    exact = evaluate(small.evaluation_run(epsilons=(0.01,)), tmp_path / "float32")
    assert_frame_equal(records.select("clean_margin"), exact.select("clean_margin"))
    assert robust_accuracy(records, 0.01).value == pytest.approx(robust_accuracy(exact, 0.01).value, abs=2.1 / small.IMAGES)


def test_norms_are_those_of_the_saved_images(small: ModuleType, tmp_path: Path) -> None:
    run, store = (
        small.evaluation_run(epsilons=(0.01,), attacks={"pgd": small.ATTACKS["pgd"]}, save_images=True),
        RecordStore(tmp_path),
    )
    evaluate(run, tmp_path)
    for unit in (unit for chunk in range(run.num_chunks) for unit in run.units(chunk)):
        part = store.read(unit).filter(pl.col("status") == Status.ATTACKED)
        rows = [int(sample_id[1:]) for sample_id in part["sample_id"]]
        clean = run.dataset.images[rows].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        change = store.read_images(unit).astype(np.float64) - clean
        np.testing.assert_allclose(part["linf"], np.abs(change).max(axis=(1, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(part["l2"], np.sqrt((change**2).sum(axis=(1, 2, 3))), rtol=1e-12)
        np.testing.assert_allclose(part["l1"], np.abs(change).sum(axis=(1, 2, 3)), rtol=1e-12)
        assert part["linf"].max() <= 0.01


def test_confidences_are_the_softmax_of_the_prediction_on_the_saved_images(small: ModuleType, tmp_path: Path) -> None:
    """In double precision, right or wrong; what was not attacked keeps the clean image's."""
    run, store = small.evaluation_run(epsilons=(0.03,), save_images=True, chunk_size=small.IMAGES), RecordStore(tmp_path)
    evaluate(run, tmp_path)
    images, context = small.pictures()
    logits = run.system(images, run.system.freeze(images, context)).detach().numpy().astype(np.float64)
    clean = scipy.special.softmax(logits, axis=1).max(axis=1)
    for unit in run.units(0):
        part = store.read(unit)
        rows = [int(sample_id[1:]) for sample_id in part["sample_id"]]
        np.testing.assert_allclose(part["clean_confidence"], clean[rows], rtol=1e-5)
        attacked = part.with_columns(row=pl.Series(rows)).filter(pl.col("status") == Status.ATTACKED)
        points = torch.from_numpy(store.read_images(unit))
        seen = context.select(torch.tensor(attacked["row"].to_list()))
        logits = run.system(points, run.system.freeze(points, seen)).detach().numpy().astype(np.float64)
        assert logits.argmax(axis=1).tolist() == attacked["adversarial_prediction"].to_list()
        np.testing.assert_allclose(attacked["adversarial_confidence"], scipy.special.softmax(logits, axis=1).max(axis=1), rtol=1e-5)
        wrong = part.filter(pl.col("status") == Status.WRONG_CLEAN)
        assert len(wrong) == small.WRONG
        assert wrong["adversarial_confidence"].to_list() == wrong["clean_confidence"].to_list()


def test_descent_at_a_larger_epsilon_goes_on_from_where_it_was(small: ModuleType, tmp_path: Path) -> None:
    """Against the attack run by hand from the saved images of the smaller epsilon, and unlike one that begins anew."""
    attacks = {"pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=2)}
    run = small.evaluation_run(attacks=attacks, save_images=True, chunk_size=small.IMAGES)
    run = replace(run, suite=replace(run.suite, threat=ThreatModel(norm="l2", epsilons=(0.02, 0.04))))
    records, store = evaluate(run, tmp_path).drop("seconds"), RecordStore(tmp_path)
    first, second = run.units(0)
    parts = [store.read(unit) for unit in (first, second)]
    ids = [part.filter(pl.col("status") == Status.ATTACKED)["sample_id"].to_list() for part in parts]
    assert set(ids[1]) < set(ids[0])
    before = dict(zip(ids[0], store.read_images(first), strict=True))
    batch = run.batch(np.array([int(sample_id[1:]) for sample_id in ids[1]]), CPU)
    start = torch.from_numpy(np.stack([before[sample_id] for sample_id in ids[1]]))
    copy = attacked_copy(run.system, batch.images)
    found, anew = (attack_again(run, "pgd", 0.04, batch, copy=copy, warm_start=warm_start).images for warm_start in (start, None))
    saved = torch.from_numpy(store.read_images(second))
    torch.testing.assert_close(saved, found, rtol=0, atol=1e-6)
    assert (saved - anew).abs().flatten(1).amax(dim=1).gt(1e-4).any()
    assert records["adversarial_margin"].is_finite().all()


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.NONE])
def test_a_seeded_evaluation_finds_what_it_found_before_the_code_was_rearranged(
    small: ModuleType, tmp_path: Path, source: MaskSource
) -> None:
    """Against the records that commit 697003a made of the same run. Margins move a little from one processor to another."""
    attacks = {name: spec for name, spec in (small.ATTACKS | small.SQUARE).items() if source.is_learned or name != "collapse"}
    keys, rounded = ["sample_id", "epsilon", "attack"], ["adversarial_margin", "adversarial_mask_iou", "linf", "l2"]
    before = pl.read_csv(Path(__file__).with_name("small_records.csv")).filter(pl.col("mask_source") == source.value).sort(keys)
    after = evaluate(small.evaluation_run(source, attacks=attacks), tmp_path).sort(keys).select(before.columns)
    assert len(before) == small.IMAGES * len(small.EPSILONS) * len(attacks)
    assert_frame_equal(after.drop(rounded), before.drop(rounded))
    assert_frame_equal(after.select(rounded), before.select(rounded), rel_tol=0, abs_tol=1e-4)


def test_the_time_of_an_attack_is_shared_by_the_images_that_it_was_run_on(small: ModuleType) -> None:
    run = small.evaluation_run()
    chunk = run.chunk(run.rows, CPU)
    positions = chunk.to_attack(attack_all=False)
    about = {"system": "small", "mask_source": "learned", "norm": "linf", "region": "everywhere", "seed": 0}
    records = chunk.records("pgd", 0.01, positions, chunk.batch.images[positions], seconds=51.0, about=about)
    assert len(positions) == small.IMAGES - small.WRONG == 17
    assert records["seconds"].to_list() == [0.0] * small.WRONG + [3.0] * 17


def test_plain_tensors_go_through_the_same_loop_without_a_data_set_or_a_directory(small: ModuleType, tmp_path: Path) -> None:
    run = small.evaluation_run(chunk_size=small.IMAGES)
    on_disk = evaluate(run, tmp_path)
    batch, store = run.batch(run.rows, CPU), MemoryStore()
    settings = EvaluationSettings(
        system=run.system, system_id="small", suite=run.suite, seed=run.seed, batch_size=8, attack_all=False, save_images=False
    )
    ids, groups = (run.dataset.samples[name].to_list() for name in ("sample_id", "group"))
    chunk = Chunk(batch, sample_ids=ids, groups=groups, batch_size=8)
    finished: list[int] = []
    copy = attacked_copy(run.system, batch.images)
    attack_chunk(settings, store, chunk, settings.units(0), copy, advance=finished.append)
    in_memory = store.records().sort("sample_id", "epsilon", "attack")
    assert_frame_equal(in_memory.drop("seconds"), on_disk.drop("seconds"), check_exact=True)
    assert finished == [small.IMAGES] * len(settings.units(0))


def test_without_oracle_masks_the_overlap_is_nan_and_nothing_else_is_missing(small: ModuleType) -> None:
    run = small.evaluation_run()
    batch = run.batch(run.rows, CPU)
    bare = replace(batch, context=batch.context._replace(oracle_masks=None))
    chunk = Chunk(bare, sample_ids=[str(row) for row in run.rows], groups=[str(row) for row in run.rows], batch_size=8)
    assert np.isnan(chunk.clean.mask_iou).all()
    with_masks = run.chunk(run.rows, CPU)
    assert np.array_equal(chunk.clean.margin, with_masks.clean.margin)
    assert np.array_equal(chunk.clean.mask_mean, with_masks.clean.mask_mean)


@pytest.mark.parametrize("source", list(MaskSource))
def test_every_mask_source_is_evaluated(small: ModuleType, tmp_path: Path, source: MaskSource) -> None:
    run = small.evaluation_run(
        source, attacks={"pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=2)}, epsilons=(0.02,)
    )
    records = evaluate(run, tmp_path)
    assert set(records["mask_source"]) == {source.value}
    assert len(records) == small.IMAGES
    iou = {MaskSource.ORACLE: 1.0, MaskSource.INVERTED: 0.0, MaskSource.NONE: 48 / 144}
    if source in iou:
        np.testing.assert_allclose(records["adversarial_mask_iou"], iou[source])


def test_when_everything_is_misclassified_the_other_starts_have_nothing_to_do(small: ModuleType, tmp_path: Path) -> None:
    attacks = {
        "apgd": ClassAttack(search="apgd", num_steps=4, restarts=3),
        "pgd": ClassAttack(search="pgd", num_steps=2, restarts=2),
    }
    records = evaluate(small.evaluation_run(attacks=attacks, epsilons=(0.5, 0.6)), tmp_path)
    assert robust_accuracy(records, 0.5).value == 0
    assert set(records.filter(pl.col("epsilon") == 0.6)["status"]) == {Status.MISCLASSIFIED_BELOW, Status.WRONG_CLEAN}


def test_attacks_that_cannot_apply_are_left_out_with_the_reason(small: ModuleType) -> None:
    run = small.evaluation_run(MaskSource.NONE)
    suite, skipped = applicable(run.suite, run.batch(run.rows[:1], CPU))
    assert list(suite.attacks) == ["pgd", "apgd"]
    assert "cannot move the mask" in skipped["collapse"]


@pytest.fixture(scope="module")
def uninterrupted(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return evaluate(small.evaluation_run(), tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(6))
def test_after_sigkill_nothing_is_lost_or_repeated(
    small: ModuleType, uninterrupted: pl.DataFrame, warm: Any, tmp_path: Path, attempt: int
) -> None:
    reading, writing = os.pipe()
    child = warm.start([str(tmp_path)], script=Path(small.__file__).read_text(), output=writing)
    os.close(writing)
    with open(reading) as lines:
        assert lines.readline() == "begun\n"
        for _ in range(random.Random(attempt).randrange(1, 20)):
            lines.readline()
        time.sleep(random.Random(attempt).random() * 0.1)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    before = {path.name: path.read_bytes() for path in (tmp_path / "records").glob("*.parquet")}
    assert 0 < len(before) < 24
    finished: list[int] = []
    attack_images(small.evaluation_run(), RecordStore(tmp_path), device=CPU, advance=finished.append)
    after = {path.name: path.read_bytes() for path in (tmp_path / "records").glob("*.parquet")}
    assert before.items() <= after.items()
    assert len(finished) == len(after) - len(before)
    resumed = read_records(tmp_path).sort("sample_id", "epsilon", "attack")
    assert_frame_equal(resumed.drop("seconds"), uninterrupted.drop("seconds"), check_exact=True)
    assert not list((tmp_path / "images").glob("*"))


def test_a_damaged_part_is_named_with_the_remedy(small: ModuleType, tmp_path: Path) -> None:
    run = small.evaluation_run(epsilons=(0.01,), attacks={"pgd": small.ATTACKS["pgd"]})
    whole = evaluate(run, tmp_path)
    part = sorted((tmp_path / "records").glob("*.parquet"))[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(RunError, match=rf"{part.name}: damaged .* delete this file and continue with resume=true"):
        read_records(tmp_path)
    part.unlink()
    assert_frame_equal(evaluate(run, tmp_path).drop("seconds"), whole.drop("seconds"))
    (tmp_path / "records" / "notes.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="move the file away"):
        evaluate(run, tmp_path)


def test_an_unfinished_evaluation_has_no_robust_accuracy(small: ModuleType, tmp_path: Path) -> None:
    records = evaluate(small.evaluation_run(epsilons=(0.004, 0.01)), tmp_path)
    with pytest.raises(ValueError, match="not finished"):
        robust_accuracy(records.filter((pl.col("attack") != "apgd") | (pl.col("sample_id") != "s07")), 0.01)
    with pytest.raises(RunError, match="no records"):
        read_records(tmp_path / "elsewhere")


def test_a_chosen_subset_keeps_the_class_shares_and_grows_with_its_number(synthetic_set: Path) -> None:
    from pipeline.data.dataset import open_prepared

    dataset = open_prepared(synthetic_set)
    every = choose_rows(dataset, "test", None)
    assert sorted(every) == dataset.indices("test").tolist()
    some = choose_rows(dataset, "test", 12)
    assert len(set(some.tolist())) == 12
    counts, all_counts = (np.bincount(dataset.labels[rows], minlength=dataset.num_classes) for rows in (some, every))
    assert (np.abs(counts - 12 * all_counts / len(every)) < 1).all()
    assert [row for row in every if row in set(some)] == some.tolist()
    assert np.array_equal(choose_rows(dataset, "test", 12), some)
