"""``foreguard compare``: the same figures as by hand, for people and for programs, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from pipeline.cli.main import main
from pipeline.evaluation.records import RECORDS, Unit, write_table
from pipeline.evaluation.summary import SUMMARY, Summary
from pipeline.reporting.data import verdicts
from pipeline.reporting.reading import read_study
from pipeline.reporting.side_by_side import compose_runs

NONE, LEARNED = 3, 6
"""Of the simulator's arms: adversarially trained, without masks and with learned ones."""


@pytest.fixture(scope="module")
def evaluations(simulated, tmp_path_factory) -> list[Path]:
    """Two evaluations of one system each, on the same images. To be read only."""
    folder, difficulty = tmp_path_factory.mktemp("compared"), np.random.default_rng(7).normal(size=80)
    return [
        simulated.write_evaluation(
            folder / name, simulated.ARMS[number], seed=0, number=number, difficulty=difficulty, with_gallery=False
        )
        for name, number in (("none", NONE), ("learned", LEARNED))
    ]


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert main(["compare", *words, "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


def test_two_evaluations_are_compared_whatever_their_systems_are(evaluations, capsys):
    """Against McNemar's exact test, which is the sign-flip test of independent images."""
    (found,) = answer(capsys, f"runs=[{','.join(map(str, evaluations))}]")["comparisons"]
    assert (found["run"], found["reference"], found["caution"]) == ("learned", "none", None)
    arms = [read_study(path).arms[0] for path in evaluations]
    assert len(found["differences"]) == 3
    for row in found["differences"]:
        (theirs, ours), _ = verdicts(arms, row["epsilon"])
        only = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())
        assert (row["only_first_over_seeds"], row["only_second_over_seeds"], row["images"]) == (*only, 80)
        assert row["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)
        assert row["low"] < row["difference"] < row["high"]


def test_people_see_a_line_an_epsilon_with_interval_p_and_sample(evaluations, capsys):
    assert main(["compare", f"runs=[{','.join(map(str, evaluations))}]", "epsilon=4/255"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "robust accuracy on the same images, under L-infinity perturbations"
    assert shown[1] == "learned minus none"
    assert shown[2].split("  ")[0] == "epsilon"
    assert shown[3].startswith("4/255")
    assert "masks learned (not recorded segmenter), trained with learned - none, trained with none" in shown[3]
    assert len(shown) == 4
    assert "\x1b" not in "".join(shown)


def test_the_region_that_the_attacker_keeps_to_is_said_with_the_figures(evaluations, tmp_path, capsys):
    runs = [shutil.copytree(one, tmp_path / one.name) for one in evaluations]
    for run in runs:
        replace(Summary.read(run / SUMMARY), region="background").write(run / SUMMARY)
    assert main(["compare", f"runs=[{','.join(map(str, runs))}]"]) == 0
    assert "under L-infinity perturbations on the background\n" in capsys.readouterr().out
    assert compose_runs([read_study(run) for run in runs]).subtitle.endswith("L-infinity perturbations on the background")


def test_runs_without_an_image_in_common_are_refused_with_the_reason(evaluations, simulated, tmp_path, capsys):
    other = simulated.write_evaluation(
        tmp_path / "other", simulated.ARMS[NONE], seed=0, number=1, difficulty=np.zeros(10), with_gallery=False
    )
    about = json.loads((other / "run.json").read_text())
    simulated.RunDescription.read(other / "run.json")
    (other / "run.json").unlink()
    changed = {**about["inputs"], "data set": "e" * 64}
    simulated.RunDescription(
        **{key: about[key] for key in ("id", "command", "algorithm", "config", "started_at")},
        inputs=changed,
        provenance=simulated.Provenance(**about["provenance"]),
    ).write(other / "run.json")
    refused = answer(capsys, f"runs=[{evaluations[0]},{other}]", code=2)
    assert refused["error"].endswith(f"other and none: other images: of other data (fingerprints {'e' * 12} and {'f' * 12}))")
    assert answer(capsys, f"runs=[{evaluations[0]},{other}]", "epsilon=4/255", code=2)["error"] == refused["error"]
    assert main(["compare", f"runs=[{evaluations[0]}]"]) == 2
    assert "runs: names fewer than two different directories" in capsys.readouterr().err
    assert main(["compare", f"runs=[{evaluations[0]},{evaluations[1]}]", "epsilon=3/255"]) == 2
    assert "epsilon=3/255: " in capsys.readouterr().err


def without_the_last(parts: list[Path]) -> None:
    parts[-1].unlink()


def of_fewer_attacks(parts: list[Path]) -> None:
    """All parts of one attack: what is left is a whole evaluation, of a shorter suite."""
    attack = parts[-1].name.split("-")[2][:2]
    for part in parts:
        if part.name.split("-")[2][:2] == attack:
            part.unlink()


def of_one_epsilon_more(parts: list[Path]) -> None:
    for part in parts[-2:]:
        unit = Unit(0, len(parts), int(part.name.split("-")[2][:2]))
        write_table(part.parent, unit, pl.read_parquet(part).with_columns(epsilon=pl.lit(0.5)))


@pytest.mark.parametrize("change", [without_the_last, of_fewer_attacks, of_one_epsilon_more])
def test_records_that_are_not_those_of_the_summary_are_refused(
    evaluations: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[list[Path]], None]
) -> None:
    """The worst case over fewer attacks is a better one, and the page looked as whole as before."""
    runs = [Path(shutil.copytree(one, tmp_path / one.name)) for one in evaluations]
    change(sorted((runs[1] / RECORDS).glob("*.parquet")))
    for words in ([f"run={runs[1]}", f"out={tmp_path / 'out'}"], [f"runs=[{runs[0]},{runs[1]}]", f"out={tmp_path / 'out'}"]):
        assert main(["report", *words]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"foreguard: {runs[1] / RECORDS}: ")
        assert not (tmp_path / "out").exists()
    assert main(["compare", f"runs=[{runs[0]},{runs[1]}]"]) == 2
