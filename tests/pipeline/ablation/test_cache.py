"""Jobs are found by what they were made from. The oracle is a store that was written by hand, under names of no meaning."""

import json
import shutil
import threading
from pathlib import Path
from runpy import run_path

import pytest

from classifier.model import build_classifier
from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import arms, jobs
from pipeline.ablation.job import ImageCounts, Job, JobState
from pipeline.ablation.manifest import read_ablation, write_manifest
from pipeline.ablation.plan import Progress, Step, duration, estimate, lines, plan, quantity
from pipeline.ablation.training_jobs import ClassifierJob, SegmenterJob
from pipeline.cli.composition import compose
from pipeline.config import to_plain, validate
from pipeline.data.dataset import open_prepared
from pipeline.evaluation.summary import SanityReport, version_of_checks
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_json, write_sealed
from pipeline.runs.locking import locked
from segmenter.model import build_segmenter

save_untrained = run_path(str(Path(__file__).parents[1] / "tiny.py"))["save_untrained"]
MASKS = [{"train": "oracle", "test": "oracle"}, {"train": "learned", "test": "learned"}]


def config(synthetic_set: Path, tmp_path: Path, **changes: object) -> AblateConfig:
    composed = compose("ablate", AblateConfig, [])
    small = {"masks": MASKS, "classifier_objectives": ["natural"], "degradation": None, "decomposition": None, "silhouette": False}
    paths = {"prepared": str(synthetic_set), "run": str(tmp_path / "run"), "store": str(tmp_path / "store")}
    return validate(AblateConfig, composed | small | paths | changes)


def store_of(config: AblateConfig) -> RunCache:
    return RunCache(config, open_prepared(config.prepared).fingerprint, {})


def only(kind: type, config: AblateConfig) -> list[Job]:
    return [job for job in jobs(config) if isinstance(job, kind)]


def finish(config: AblateConfig, state: JobState, *, path: Path | None = None, seed: int = 0) -> None:
    """What a command leaves behind, as far as anybody looks at it."""
    path = path or state.path
    with open_run(path, command=state.job.command, config=to_plain(state.config), inputs=state.inputs, resume=False):
        if isinstance(state.job, EvaluationJob):
            SanityReport(
                images=state.config.sanity_images, epsilon=state.config.sanity_epsilon, version=version_of_checks(), checks=()
            ).write(path / "sanity.json")
            write_json(path / "summary.json", {})
            return
        dataset = open_prepared(config.prepared)
        is_segmenter = isinstance(state.job, SegmenterJob)
        architecture = config.segmenter if is_segmenter else config.classifier
        module = (
            build_segmenter(config.segmenter, seed=seed)
            if is_segmenter
            else build_classifier(config.classifier, num_classes=dataset.num_classes, seed=seed)
        )
        save_untrained(
            path,
            module,
            architecture,
            classes=dataset.classes,
            image_size=dataset.image_size,
            data_fingerprint=dataset.fingerprint,
            mean_color=dataset.mean,
        )
        write_json(path / "result.json", {})


def test_nothing_is_known_before_there_are_data(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    steps = plan(settings, RunCache(settings, None, {}), jobs(settings), None)
    assert {step.progress for step in steps} == {Progress.NEW}
    assert {(step.seconds, step.passes) for step in steps} == {(None, None)}
    assert estimate(steps) == "passes unknown until the data are prepared"


def test_a_finished_job_is_reused_under_any_name_and_a_begun_one_is_continued(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    segmenter, classifier = only(SegmenterJob, settings)[0], only(ClassifierJob, settings)[0]
    finish(settings, store.find(segmenter), path=tmp_path / "store" / "segmenters" / "my favourite")
    begun = store.find(classifier)
    with open_run(begun.path, command="train-classifier", config=to_plain(begun.config), inputs=begun.inputs, resume=False):
        pass
    again = store_of(settings)
    assert again.find(segmenter).path.name == "my favourite"
    assert again.find(segmenter).finished
    states = {step.job: step.progress for step in plan(settings, again, jobs(settings), None)}
    assert states[segmenter] is Progress.REUSED
    assert states[classifier] is Progress.CONTINUED
    assert list(states.values()).count(Progress.NEW) == len(states) - 2


def test_what_depends_on_an_unfinished_job_is_not_decided_yet(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    oracle, learned = only(ClassifierJob, settings)
    assert store.find(oracle) is not None
    assert store.find(learned) is None
    assert all(store.find(arm) is None for arm in arms(settings))


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
    finish(settings, store_of(settings).find(only(ClassifierJob, settings)[0]))
    other = config(synthetic_set, tmp_path, **changes)
    state = store_of(other).find(only(ClassifierJob, other)[0])
    assert state.finished == reused


def test_other_data_reuse_nothing(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    job = only(ClassifierJob, settings)[0]
    finish(settings, store_of(settings).find(job))
    assert store_of(settings).find(job).finished
    assert not RunCache(settings, "f" * 64, {}).find(job).finished


def test_another_segmenter_under_the_same_recipe_makes_its_classifier_and_its_evaluation_anew(
    synthetic_set: Path, tmp_path: Path
) -> None:
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    (segmenter,), learned = only(SegmenterJob, settings), only(ClassifierJob, settings)[1]
    arm = next(arm for arm in arms(settings) if arm.segmenter == segmenter)
    for job in (segmenter, learned, arm):
        finish(settings, store.find(job))
    assert store_of(settings).find(arm).finished
    path = store.find(segmenter).path
    shutil.rmtree(path)
    fresh = store_of(settings)
    finish(settings, fresh.find(segmenter), seed=1)
    retrained = store_of(settings)
    assert retrained.find(segmenter).finished
    assert not retrained.find(learned).finished
    assert retrained.find(learned).path != store.find(learned).path


def test_an_evaluation_without_the_wanted_sanity_checks_is_not_finished(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path, evaluation={"sanity": {"sources": ["oracle"], "objectives": ["natural"]}})
    store = store_of(settings)
    finish(settings, store.find(only(ClassifierJob, settings)[0]))
    arm = arms(settings)[0]
    finish(settings, store.find(arm))
    assert store_of(settings).find(arm).finished
    for images, enough in ((64, True), (3, True), (65, False)):  # made on 64, which is the default
        sanity = {"sources": ["oracle"], "objectives": ["natural"], "images": images}
        other = store_of(config(synthetic_set, tmp_path, evaluation={"sanity": sanity})).find(arm)
        assert other.path == store.find(arm).path
        assert other.finished is enough
    (store.find(arm).path / "sanity.json").unlink()
    assert not store_of(settings).find(arm).finished
    without = config(synthetic_set, tmp_path, evaluation={"sanity": None})
    assert store_of(without).find(arm).finished


def test_sanity_checks_of_another_epsilon_of_other_code_or_of_an_old_form_vouch_for_nothing(
    synthetic_set: Path, tmp_path: Path
) -> None:
    sanity = {"sanity": {"sources": ["oracle"], "objectives": ["natural"]}}
    settings = config(synthetic_set, tmp_path, evaluation=sanity)
    store = store_of(settings)
    finish(settings, store.find(only(ClassifierJob, settings)[0]))
    arm = arms(settings)[0]
    finish(settings, store.find(arm))
    path = store.find(arm).path
    one, another, *_ = (epsilon for epsilon in settings.attack.threat.epsilons if epsilon > 0)
    for epsilon in (one, another, None):
        headline = config(synthetic_set, tmp_path, evaluation=sanity, primary_epsilon=epsilon)
        state = store_of(headline).find(arm)
        assert state.path == path
        SanityReport(images=64, epsilon=one, version=version_of_checks(), checks=()).write(path / "sanity.json")
        assert store_of(headline).find(arm).finished is (epsilon == one)
    at_one = config(synthetic_set, tmp_path, evaluation=sanity, primary_epsilon=one)
    SanityReport(images=64, epsilon=one, version="0" * 64, checks=()).write(path / "sanity.json")
    assert not store_of(at_one).find(arm).finished
    write_sealed(path / "sanity.json", {"images": 64, "checks": []}, version=1)
    assert not store_of(at_one).find(arm).finished


def test_an_evaluation_with_its_attacks_in_another_order_is_another_one(synthetic_set: Path, tmp_path: Path) -> None:
    """Parts are known by the position of their attack, and each attack meets what those before it left standing."""
    settings = config(synthetic_set, tmp_path)
    store = store_of(settings)
    finish(settings, store.find(only(ClassifierJob, settings)[0]))
    arm = arms(settings)[0]
    finish(settings, store.find(arm))
    plain = to_plain(settings.attack)
    turned = plain | {"attacks": dict(reversed(plain["attacks"].items()))}
    assert store_of(config(synthetic_set, tmp_path, attack=plain)).find(arm).finished
    other = store_of(config(synthetic_set, tmp_path, attack=turned)).find(arm)
    assert not other.begun
    assert other.path != store.find(arm).path


def test_a_directory_that_holds_no_run_is_passed_over(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    strange = tmp_path / "store" / "classifiers" / "strange"
    strange.mkdir(parents=True)
    (strange / "run.json").write_text('{"command": ')
    assert not store_of(settings).find(only(ClassifierJob, settings)[0]).begun


def test_estimates_are_medians_of_what_was_measured_for_the_kind_and_nothing_else(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path, seeds=[0, 1, 2], classifier_objectives=["natural", "adversarial"])
    store = store_of(settings)
    natural = [job for job in only(ClassifierJob, settings) if job.objective == "natural" and job.segmenter is None]
    adversarial = [job for job in only(ClassifierJob, settings) if job.objective == "adversarial"]
    for job, seconds in zip(natural, (10.0, 50.0, 12.0), strict=True):
        finish(settings, store.find(job))
        store.record_duration(store.find(job), seconds)
    with (tmp_path / "store" / "timings.jsonl").open("a") as file:
        file.write('{"fingerprint": "cut o')
    again = store_of(settings)
    assert [again.usual_duration(job) for job in natural] == [12.0, 12.0, 12.0]
    assert {again.usual_duration(job) for job in adversarial} == {None}
    assert again.duration(again.find(natural[1])) == 50.0
    slower = config(synthetic_set, tmp_path, classifier_trainer={"epochs": 99})
    assert store_of(slower).usual_duration(natural[0]) is None


def test_the_time_that_is_left_is_what_was_timed_and_for_the_rest_the_passes(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    job = jobs(settings)[0]
    timed, untimed, unknown = (
        Step(job, Progress.NEW, seconds, passes) for seconds, passes in ((30.0, 5), (None, 9_999), (None, None))
    )
    assert estimate([]) == "nothing is left to do"
    assert estimate([timed, timed]) == "about 60 s"
    assert estimate([untimed]) == "at most 9999 passes"
    assert estimate([timed, untimed, untimed]) == "about 30 s, at most 20 thousand passes in 2 jobs of kinds not timed here yet"
    assert estimate([untimed, unknown]) == "passes unknown until the data are prepared"
    assert [duration(seconds) for seconds in (0.2, 89, 95, 7200)] == ["about 1 s", "about 89 s", "about 2 min", "about 2.0 h"]
    assert [quantity(count) for count in (0, 10_000, 999_499, 999_500)] == ["0", "10 thousand", "999 thousand", "1.0 million"]


def timed(config: AblateConfig, seconds: float) -> JobState:
    """The first classifier, finished and measured."""
    store = store_of(config)
    state = store.find(only(ClassifierJob, config)[0])
    finish(config, state)
    store.record_duration(state, seconds)
    return state


def test_a_plan_says_seconds_where_they_were_measured_and_passes_elsewhere(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path, seeds=[0, 1])
    timed(settings, 7.0)
    steps = plan(settings, store_of(settings), jobs(settings), ImageCounts(train=96, val=32, test=32, classes=10))
    measured = [step for step in steps if step.seconds is not None]
    assert [type(step.job) for step in measured] == [ClassifierJob, ClassifierJob]
    assert {step.seconds for step in measured} == {7.0}
    assert all(step.passes == step.job.passes(settings, ImageCounts(train=96, val=32, test=32, classes=10)).total for step in steps)
    text = lines(settings, steps, prepared=True)
    assert sum("[about 7 s]" in line for line in text) == 1  # the other one is finished
    assert sum("[at most " in line for line in text) == len(steps) - 2


def test_timings_are_lines_of_json(synthetic_set: Path, tmp_path: Path) -> None:
    state = timed(config(synthetic_set, tmp_path), 1.23456)
    (line,) = (tmp_path / "store" / "timings.jsonl").read_text().splitlines()
    assert json.loads(line)["seconds"] == 1.23
    assert json.loads(line)["fingerprint"] == state.fingerprint


def test_processes_write_the_manifest_of_an_ablation_one_after_the_other(synthetic_set: Path, tmp_path: Path) -> None:
    settings = config(synthetic_set, tmp_path)
    settings.run.mkdir()
    other = threading.Thread(target=write_manifest, args=(settings, store_of(settings)))
    with locked(settings.run / ".manifest.lock", busy=None):
        other.start()
        other.join(0.5)  # far more than it takes
        assert other.is_alive()
        assert not (settings.run / "ablation.json").exists()
    other.join()
    assert not read_ablation(settings.run)[0].finished
