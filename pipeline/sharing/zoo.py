"""Putting a system of an ablation into the zoo: exported without its graphs, pinned, its published figures beside it."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from pipeline.config import validate
from pipeline.data.dataset import read_manifest
from pipeline.errors import RunError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import read_records
from pipeline.evaluation.summary import SUMMARY, Summary
from pipeline.prediction.choice import choose_system
from pipeline.runs import zoo
from pipeline.runs.directory import read_run
from pipeline.runs.exported import EXPORTED
from pipeline.runs.files import file_sha256
from pipeline.sharing.config import ExportConfig
from pipeline.sharing.export import export


def enter(
    run: Path, name: str, *, prepared: Path, arm: str | None = None, about: str | None = None, half: bool = False, scratch: Path
) -> zoo.ZooEntry:
    """Export an arm into ``zoo_directory() / name`` and enter it into the index, in the place of an older one of that name.

    ``about`` says what it is; None says it by the experiment's name and the arm's.

    With ``half`` its weights have half the size. Then the evaluation is made again with them, in ``scratch``, and every image has
    to get the verdict that was published, at every epsilon. Raises RunError: the figures are of other data than ``prepared``, a
    verdict differs, the system is larger than ``zoo.LARGEST`` or all together larger than ``zoo.LARGEST_SUM``.
    """
    chosen = choose_system(run, None, {}, arm=arm)
    if chosen.evaluation is None or read_run(chosen.evaluation).command != "evaluate":
        raise RunError(f"{run}: {chosen.name} has no evaluation of its own, so there is no figure to publish")
    begun, manifest = read_run(chosen.evaluation), read_manifest(prepared)
    if begun.inputs["data set"] != manifest["fingerprint"]:
        raise RunError(f"{prepared}: is other data than those that {chosen.evaluation} was attacked on (their fingerprints differ)")
    place = zoo.zoo_directory() / name
    export(
        ExportConfig(run=run, arm=arm, out=place, files=(), half=half, prepared=prepared if half else None, force=place.exists())
    )
    if half:
        _check_verdicts(place, chosen.evaluation, prepared, scratch)
    entry = zoo.ZooEntry(
        about=about or f"{read_run(run).config.get('experiment', run.name)}: {arm or chosen.name.split(' (another one')[0]}",
        sha256=file_sha256(place / EXPORTED),
        data=manifest["name"],
        recipe=manifest["recipe"],
        data_fingerprint=manifest["fingerprint"],
        attack=begun.config["attack"],
        split=begun.config["split"],
        max_images=begun.config["max_images"],
        seed=begun.config["seed"],
        figures=figures_of(Summary.read(chosen.evaluation / SUMMARY)),
    )
    systems = {**zoo.read_index(), name: entry}
    check_sizes(zoo.zoo_directory(), list(systems))
    zoo.ZooIndex(systems=dict(sorted(systems.items()))).write(zoo.INDEX)
    return entry


def figures_of(summary: Summary) -> tuple[zoo.Published, ...]:
    """The figures of an evaluation as counts of images."""
    estimates = [(0.0, summary.clean_accuracy), *((one.epsilon, one.robust_accuracy) for one in summary.curve if one.epsilon > 0)]
    return tuple(zoo.Published(epsilon=epsilon, right=round(one.value * one.n), images=one.n) for epsilon, one in estimates)


def check_sizes(directory: Path, names: list[str]) -> None:
    """Raises RunError where a system, or all together, are larger than the repository should hold."""
    sizes = {name: sum(path.stat().st_size for path in (directory / name).rglob("*") if path.is_file()) for name in names}
    for name, size in sizes.items():
        if size > zoo.LARGEST:
            raise RunError(f"{directory / name}: has {size / 1e6:.1f} MB, more than {zoo.LARGEST / 1e6:.0f}: try half=true")
    if sum(sizes.values()) > zoo.LARGEST_SUM:
        raise RunError(
            f"{directory}: has {sum(sizes.values()) / 1e6:.1f} MB, more than {zoo.LARGEST_SUM / 1e6:.0f}: hand it on as an archive"
            f" of that directory, to be unpacked where {zoo.VARIABLE} says"
        )


def _check_verdicts(place: Path, evaluation: Path, prepared: Path, scratch: Path) -> None:
    """Attack the export as its system was attacked."""
    again = validate(EvaluateConfig, read_run(evaluation).config)
    again = replace(again, classifier_run=place, segmenter_run=None, masks={}, prepared=prepared, run=scratch)
    evaluate(replace(again, sanity=False, gallery_images=0))
    published, found = read_records(evaluation), read_records(scratch)
    for epsilon in published["epsilon"].unique().sort():
        both = robust_images(published, epsilon).join(robust_images(found, epsilon), on="sample_id", suffix="_half", how="full")
        changed = both.filter(pl.col("robust").ne_missing(pl.col("robust_half")))["sample_id"].to_list()
        if changed:
            raise RunError(
                f"{place}: in half precision the verdicts of {len(changed)} images differ at epsilon {epsilon:.4g} ({changed[0]}):"
                " enter it in single precision"
            )
