"""What can be chosen of a report."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.config import AnyPath, Number, configuration


@configuration
class ReportConfig:
    """Turn the records of an ablation or an evaluation, or of several, into a page that opens offline, tables and figures."""

    run: AnyPath | None = None
    """Directory of the ablation or of one evaluation. It is only read."""
    runs: tuple[AnyPath, ...] = ()
    """Directories of two or more, to be compared on one page: runs=[runs/a,runs/b] out=comparison."""
    out: AnyPath | None = None
    """Directory of the report; a report that it holds is replaced. null: report/ in the directory of the run."""

    def __post_init__(self) -> None:
        if (self.run is None) == (not self.runs):
            raise ValueError("run: say run=DIRECTORY, or runs=[DIRECTORY,DIRECTORY] to compare some on one page")
        if self.runs and (len(set(self.runs)) < len(self.runs) or len(self.runs) < 2):
            raise ValueError("runs: names fewer than two different directories; one alone is run=DIRECTORY")
        if self.runs and self.out is None:
            raise ValueError("out: a report on several runs belongs to none of them: say out=DIRECTORY")


@configuration
class CompareConfig:
    """Compare the systems of two or more runs on the images that both have met, in the terminal."""

    runs: tuple[AnyPath, ...]
    """Directories of ablations or evaluations, the reference first: runs=[runs/a,runs/b]. Two evaluations of one system each are
    compared whatever these are; else the same systems."""
    epsilon: Annotated[Number, Field(gt=0, le=10_000)] | None = None
    """Only at this epsilon; null: at every one that both were attacked at. p values are corrected within each epsilon."""

    def __post_init__(self) -> None:
        if len(set(self.runs)) < len(self.runs) or len(self.runs) < 2:
            raise ValueError("runs: names fewer than two different directories; say runs=[DIRECTORY,DIRECTORY]")


@configuration
class ListConfig:
    """Which runs are listed, or which systems the zoo has."""

    path: AnyPath = Path("runs")
    """Directory that they lie in, at any depth; it may be said without path=. zoo: the systems behind published figures."""
    inner: bool = False
    """Also those inside of other runs: the stages and evaluations in the store of an ablation."""
