"""The small evaluation of ``small.py``, which runs in other processes as well, and two small stages in their runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("small.py"))


@pytest.fixture(scope="module")
def runs(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``segmenter`` and ``classifier`` as training leaves them, but for the weights, which are the initial ones."""
    from classifier.config import ClassifierConfig
    from classifier.model import build_classifier
    from pipeline.config import to_plain
    from pipeline.data.dataset import open_prepared
    from pipeline.runs.checkpoints import Checkpoint, SegmenterReference, refer_to_segmenter, save_checkpoint, weights_digest
    from pipeline.runs.provenance import provenance
    from segmenter.config import SegmenterConfig
    from segmenter.model import build_segmenter

    path = tmp_path_factory.mktemp("runs")
    dataset = open_prepared(synthetic_set)
    segmenter_config, classifier_config = SegmenterConfig(), ClassifierConfig()
    masks = {"source": "learned", "fill": "black"}

    def save(
        kind: str, config: object, module: Any, trained: dict[str, object], segmenter: SegmenterReference | None = None
    ) -> None:
        checkpoint = Checkpoint(
            kind=kind,
            architecture=to_plain(config),
            config=trained,
            classes=dataset.classes,
            image_size=dataset.image_size,
            data_fingerprint=dataset.fingerprint,
            mean_color=dataset.mean,
            provenance=provenance(),
            step=0,
            epoch=0,
            metrics={},
            segmenter=segmenter,
        )
        save_checkpoint(path / kind / "checkpoints", "best", checkpoint, module.state_dict())

    save("segmenter", segmenter_config, build_segmenter(segmenter_config, seed=0), {})
    network = build_classifier(classifier_config, num_classes=dataset.num_classes, seed=0)
    reference = refer_to_segmenter(
        path / "segmenter", sha256=weights_digest(path / "segmenter", "segmenter"), run=path / "classifier"
    )
    save("classifier", classifier_config, network, {"masks": masks}, reference)
    return path
