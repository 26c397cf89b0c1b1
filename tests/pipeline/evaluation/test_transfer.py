"""Adversarial images shown to other systems, against records, copies and predictions made by hand."""

import copy
import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.errors import RunError
from pipeline.evaluation.evaluator import EvaluationRun, attack_images
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import RecordStore, read_records
from pipeline.evaluation.rescoring import transferred
from pipeline.masks.config import MaskSource

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationRun, Path]:
    """An evaluation of the learned system whose images were kept, every attack to its end."""
    path = tmp_path_factory.mktemp("source")
    run = small.evaluation_run(attacks={"apgd": small.ATTACKS["apgd"]}, attack_all=True, save_images=True)
    attack_images(run, RecordStore(path), device=CPU, advance=lambda _: None)
    return run, path


def test_on_the_system_itself_and_on_a_copy_of_it_stands_what_the_records_leave_standing(
    source: tuple[EvaluationRun, Path],
) -> None:
    run, path = source
    own, records = transferred(path, run, device=CPU), read_records(path)
    shares = []
    for epsilon in run.suite.threat.epsilons:
        at = own.filter(own["epsilon"] == epsilon).sort("sample_id")
        expected = robust_images(records, epsilon)
        assert at["robust"].to_list() == expected["robust"].to_list()
        assert at["group"].to_list() == expected["group"].to_list()
        shares.append(at["robust"].mean())
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1], "nothing fell, so nothing was compared"
    twin = dataclasses.replace(run, system=copy.deepcopy(run.system), batch_size=3)
    assert transferred(path, twin, device=CPU).equals(own)


def test_another_system_is_asked_about_the_stored_images_through_its_own_masks(
    source: tuple[EvaluationRun, Path], small: ModuleType
) -> None:
    run, path = source
    other = dataclasses.replace(run, system=small.system(MaskSource.ORACLE))
    found = transferred(path, other, device=CPU)
    images, context = small.pictures()
    labels = torch.from_numpy(run.dataset.labels)
    with torch.no_grad():
        stands = other.system(images, context).argmax(1) == labels
    store, epsilons = RecordStore(path), run.suite.threat.epsilons
    for position, epsilon in enumerate(epsilons):
        copies = images.clone()
        for unit in (unit for unit in store.units() if unit.epsilon_index == position):
            attacked = store.read(unit).with_row_index("row").filter(store.read(unit)["status"] == "attacked")
            rows = [int(one[1:]) for one in attacked["sample_id"]]
            copies[rows] = torch.from_numpy(store.read_images(unit))
        with torch.no_grad():
            stands &= other.system(copies, context).argmax(1) == labels
        at = found.filter(found["epsilon"] == epsilon).sort("sample_id")
        assert at["robust"].to_list() == stands.tolist()
    assert not found.equals(transferred(path, run, device=CPU))


def test_images_that_were_left_at_the_first_success_and_other_images_are_refused(
    source: tuple[EvaluationRun, Path], small: ModuleType, tmp_path: Path
) -> None:
    run, path = source
    two = {name: small.ATTACKS[name] for name in ("pgd", "apgd")}
    stopped = small.evaluation_run(attacks=two, epsilons=(0.01, 0.03), save_images=True)
    attack_images(stopped, RecordStore(tmp_path), device=CPU, advance=lambda _: None)
    with pytest.raises(RunError, match="evaluate with attack_all=true save_images=true"):
        transferred(tmp_path, stopped, device=CPU)
    with pytest.raises(RunError, match="its images are not those"):
        transferred(path, dataclasses.replace(run, rows=np.arange(small.IMAGES)[::-1].copy()), device=CPU)
    with pytest.raises(RunError, match="holds no records"):
        transferred(tmp_path / "nothing", run, device=CPU)
