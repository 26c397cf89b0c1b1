"""The prepared data set of an ablation, and what is made of it for single kinds of jobs."""

from pathlib import Path
from typing import cast

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import DataView
from pipeline.data import silhouettes
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared, read_manifest
from pipeline.data.folds import write_fold
from pipeline.errors import DataError


class DataSets:
    """Where the data sets of an ablation lie. What is made of the prepared one lies in the store, known by its fingerprint."""

    def __init__(self, config: AblateConfig, fingerprint: str) -> None:
        self._config, self._fingerprint = config, fingerprint

    def path(self, view: DataView) -> Path:
        """The directory of a data set, there or not."""
        if view == DataView():
            return self._config.prepared
        fold = view.fold.slug if view.fold else ""
        return self._config.store_path / ("silhouette-sets" if view.silhouettes else "folds") / f"{self._fingerprint[:12]}{fold}"

    def fingerprint(self, view: DataView) -> str | None:
        """None where it is not there yet, or damaged."""
        if view == DataView():
            return self._fingerprint
        try:
            return cast(str, read_manifest(self.path(view))["fingerprint"])
        except DataError:
            return None

    def make(self, view: DataView) -> None:
        """Make a data set where there is none. Raises DataError; OccupiedError where another process is at it."""
        path = self.path(view)
        if path.exists():
            return
        if view.silhouettes:
            self.make(view._replace(silhouettes=False))
            dataset = open_prepared(self.path(view._replace(silhouettes=False)))
            plan = silhouettes.plan(dataset)
            write_prepared(plan, path, name="silhouettes", image_size=dataset.image_size, root=None, workers=0)
        elif view.fold is not None:
            write_fold(open_prepared(self._config.prepared), path, number=view.fold.number, folds=view.fold.of)
