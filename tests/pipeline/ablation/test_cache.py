"""Pieces are found by what they were made from. The oracle is a store that was written by hand, under names of no meaning."""

import json
import shutil
from pathlib import Path

import pytest

from classifier.model import build_classifier
from pipeline.ablation.cache import Store, Work
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import ClassifierPiece, EvaluationPiece, Piece, SegmenterPiece, arms, pieces
from pipeline.ablation.plan import State, duration, lines, outlook, remaining
from pipeline.config import compose, to_plain, validate
from pipeline.data.dataset import open_prepared
from pipeline.runs.checkpoints import Checkpoint, save_checkpoint
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_json
from pipeline.runs.provenance import provenance
from segmenter.model import build_segmenter

MASKS = [{"train": "oracle", "test": "oracle"}, {"train": "learned", "test": "learned"}]


def config(synthetic_set: Path, tmp_path: Path, **changes: object) -> AblateConfig:
    composed = compose("ablate", AblateConfig, [])
    small = {"masks": MASKS, "classifier_objectives": ["natural"], "degradation": None, "decomposition": None, "silhouette": False}
    paths = {"prepared": str(synthetic_set), "run": str(tmp_path / "run"), "store": str(tmp_path / "store")}
    return validate(AblateConfig, composed | small | paths | changes)


def store_of(config: AblateConfig) -> Store:
    return Store(config, open_prepared(config.prepared).fingerprint)


def only(kind: type, config: AblateConfig) -> list[Piece]:
    return [piece for piece in pieces(config) if isinstance(piece, kind)]


def finish(config: AblateConfig, work: Work, *, path: Path | None = None, seed: int = 0) -> None:
    """What a command leaves behind, as far as anybody looks at it."""
    path = path or work.path
    names = {SegmenterPiece: "train-segmenter", ClassifierPiece: "train-classifier", EvaluationPiece: "evaluate"}
    name = names[type(work.piece)]
    with open_run(path, command=name, config=to_plain(work.command), inputs=work.inputs, resume=False):
        if isinstance(work.piece, EvaluationPiece):
            write_json(path / "sanity.json", {"images": work.command.sanity_images})
            write_json(path / "summary.json", {})
            return
        dataset = open_prepared(config.prepared)
        is_segmenter = isinstance(work.piece, SegmenterPiece)
        architecture = config.segmenter if is_segmenter else config.classifier
        module = (
            build_segmenter(config.segmenter, seed=seed)
            if is_segmenter
            else build_classifier(config.classifier, num_classes=dataset.num_classes, seed=seed)
        )
        checkpoint = Checkpoint(
            kind="segmenter" if is_segmenter else "classifier",
            architecture=to_plain(architecture),
            config={},
            classes=dataset.classes,
            image_size=dataset.image_size,
            data_fingerprint=dataset.fingerprint,
            mean_color=dataset.mean,
            provenance=provenance(),
            step=0,
            epoch=0,
            metrics={},
        )
        save_checkpoint(path / "checkpoints", "best", checkpoint, module.state_dict())
        write_json(path / "result.json", {})


def test_nothing_is_known_before_there_are_data(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    steps = outlook(Store(settings, None), pieces(settings))
    assert {step.state for step in steps} == {State.NEW}
    assert {step.seconds for step in steps} == {None}


def test_a_finished_piece_is_reused_under_any_name_and_a_begun_one_is_continued(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    segmenter, classifier = only(SegmenterPiece, settings)[0], only(ClassifierPiece, settings)[0]
    finish(settings, store.look(segmenter), path=tmp_path / "store" / "segmenters" / "my favourite")
    begun = store.look(classifier)
    with open_run(begun.path, command="train-classifier", config=to_plain(begun.command), inputs=begun.inputs, resume=False):
        pass
    again = store_of(settings)
    assert again.look(segmenter).path.name == "my favourite"
    assert again.look(segmenter).finished
    states = {step.piece: step.state for step in outlook(again, pieces(settings))}
    assert states[segmenter] is State.REUSED
    assert states[classifier] is State.CONTINUED
    assert list(states.values()).count(State.NEW) == len(states) - 2


def test_what_depends_on_an_unfinished_piece_is_not_decided_yet(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    oracle, learned = only(ClassifierPiece, settings)
    assert store.look(oracle) is not None
    assert store.look(learned) is None
    assert all(store.look(arm) is None for arm in arms(settings))


@pytest.mark.parametrize(
    ("changes", "reused"),
    [
        ({}, True),
        ({"run": "elsewhere"}, True),
        ({"seeds": [0, 1]}, True),
        ({"evaluation": {"max_images": 7}}, True),
        ({"segmenter_trainer": {"epochs": 99}}, True),
        ({"workers": 1}, True),
        ({"classifier_trainer": {"epochs": 99}}, False),
        ({"classifier": {"width": 8}}, False),
        ({"augment": {"shift": 0.1}}, False),
        ({"masking": {"fill": "black"}}, False),
        ({"label_smoothing": 0.1}, False),
    ],
)
def test_a_classifier_is_reused_exactly_where_its_own_recipe_is_the_same(
    synthetic_set: Path, tmp_path: Path, changes: dict[str, object], reused: bool
) -> None:
    settings = config(synthetic_set, tmp_path)
    finish(settings, store_of(settings).look(only(ClassifierPiece, settings)[0]))
    other = config(synthetic_set, tmp_path, **changes)
    work = store_of(other).look(only(ClassifierPiece, other)[0])
    assert work.finished == reused


def test_other_data_reuse_nothing(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    piece = only(ClassifierPiece, settings)[0]
    finish(settings, store_of(settings).look(piece))
    assert store_of(settings).look(piece).finished
    assert not Store(settings, "f" * 64).look(piece).finished


def test_another_segmenter_under_the_same_recipe_makes_its_classifier_and_its_evaluation_anew(
    synthetic_set: Path, tmp_path: Path
) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    (segmenter,), learned = only(SegmenterPiece, settings), only(ClassifierPiece, settings)[1]
    arm = next(arm for arm in arms(settings) if arm.segmenter == segmenter)
    for piece in (segmenter, learned, arm):
        finish(settings, store.look(piece))
    assert store_of(settings).look(arm).finished
    path = store.look(segmenter).path
    shutil.rmtree(path)
    fresh = store_of(settings)
    finish(settings, fresh.look(segmenter), seed=1)
    retrained = store_of(settings)
    assert retrained.look(segmenter).finished
    assert not retrained.look(learned).finished
    assert retrained.look(learned).path != store.look(learned).path


def test_an_evaluation_without_the_wanted_sanity_checks_is_not_finished(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path, evaluation={"sanity": {"sources": ["oracle"], "objectives": ["natural"]}})
    store = store_of(settings)
    finish(settings, store.look(only(ClassifierPiece, settings)[0]))
    arm = arms(settings)[0]
    finish(settings, store.look(arm))
    assert store_of(settings).look(arm).finished
    for images, enough in ((64, True), (3, True), (65, False)):  # made on 64, which is the default
        sanity = {"sources": ["oracle"], "objectives": ["natural"], "images": images}
        other = store_of(config(synthetic_set, tmp_path, evaluation={"sanity": sanity})).look(arm)
        assert other.path == store.look(arm).path
        assert other.finished is enough
    (store.look(arm).path / "sanity.json").unlink()
    assert not store_of(settings).look(arm).finished
    without = config(synthetic_set, tmp_path, evaluation={"sanity": None})
    assert store_of(without).look(arm).finished


def test_an_evaluation_with_its_attacks_in_another_order_is_another_one(synthetic_set: Path, tmp_path: Path) -> None:
    """Parts are known by the position of their attack, and each attack meets what those before it left standing."""
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    finish(settings, store.look(only(ClassifierPiece, settings)[0]))
    arm = arms(settings)[0]
    finish(settings, store.look(arm))
    plain = to_plain(settings.attack)
    turned = plain | {"attacks": dict(reversed(plain["attacks"].items()))}
    assert store_of(config(synthetic_set, tmp_path, attack=plain)).look(arm).finished
    other = store_of(config(synthetic_set, tmp_path, attack=turned)).look(arm)
    assert not other.begun
    assert other.path != store.look(arm).path


def test_a_directory_that_holds_no_run_is_passed_over(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    strange = tmp_path / "store" / "classifiers" / "strange"
    strange.mkdir(parents=True)
    (strange / "run.json").write_text('{"command": ')
    assert not store_of(settings).look(only(ClassifierPiece, settings)[0]).begun


def test_estimates_are_medians_of_what_was_measured_for_the_kind_and_nothing_else(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path, seeds=[0, 1, 2], classifier_objectives=["natural", "adversarial"])
    store = store_of(settings)
    natural = [piece for piece in only(ClassifierPiece, settings) if piece.objective == "natural" and piece.segmenter is None]
    adversarial = [piece for piece in only(ClassifierPiece, settings) if piece.objective == "adversarial"]
    for piece, seconds in zip(natural, (10.0, 50.0, 12.0), strict=True):
        finish(settings, store.look(piece))
        store.note(store.look(piece), seconds)
    with (tmp_path / "store" / "timings.jsonl").open("a") as file:
        file.write('{"fingerprint": "cut o')
    again = store_of(settings)
    assert [again.estimate(piece) for piece in natural] == [12.0, 12.0, 12.0]
    assert {again.estimate(piece) for piece in adversarial} == {None}
    assert again.seconds_of(again.look(natural[1])) == 50.0
    slower = config(synthetic_set, tmp_path, classifier_trainer={"epochs": 99})
    assert store_of(slower).estimate(natural[0]) is None


def test_the_time_that_is_left_names_what_is_not_known(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    steps = outlook(store_of(settings), pieces(settings))
    assert remaining([]) == "nothing is left to do"
    assert remaining(steps) == "time unknown until the data are prepared"
    some = [steps[0]._replace(seconds=30.0, measured=True), steps[1]._replace(seconds=31.0, measured=True)]
    assert remaining(some) == "about 61 s, as such pieces took here"
    assert remaining([*some, steps[2]]) == "time unknown until the data are prepared"
    guessed = steps[2]._replace(seconds=60.0)
    assert remaining([*some, guessed]) == "roughly 2 min (1 of 3 pieces by counting passes through the stages)"
    assert remaining([guessed]) == "roughly 60 s (all by counting passes through the stages)"
    assert [duration(seconds, measured=True) for seconds in (None, 0.2, 89, 95, 7200)] == [
        "time unknown",
        "about 1 s",
        "about 89 s",
        "about 2 min",
        "about 2.0 h",
    ]


def timed(config: AblateConfig, seconds: float) -> Work:
    """The first classifier, finished and measured."""
    store = store_of(config)
    work = store.look(only(ClassifierPiece, config)[0])
    finish(config, work)
    store.note(work, seconds)
    return work


def test_a_guess_stands_where_nothing_was_measured_and_nowhere_else(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    timed(settings, 7.0)
    other = {piece: float(number) for number, piece in enumerate(pieces(settings), start=100)}
    steps = outlook(store_of(settings), pieces(settings), other.__getitem__)
    assert [step.seconds for step in steps if step.measured] == [7.0]
    assert all(step.seconds == other[step.piece] for step in steps if not step.measured)
    assert "[roughly 2 min]" in lines(settings, steps, prepared=True)[-2]


def test_timings_are_lines_of_json(synthetic_set: Path, tmp_path: Path) -> None:
    work = timed(config(synthetic_set, tmp_path), 1.23456)
    (line,) = (tmp_path / "store" / "timings.jsonl").read_text().splitlines()
    assert json.loads(line)["seconds"] == 1.23
    assert json.loads(line)["fingerprint"] == work.fingerprint
