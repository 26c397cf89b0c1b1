"""What can be chosen of a report."""

from pathlib import Path

from pipeline.config import configuration


@configuration
class ReportConfig:
    """Turn the records of an ablation or an evaluation into a page that opens offline, tables and figures."""

    run: Path
    """Directory of the ablation or of one evaluation. It is only read."""
    out: Path | None = None
    """Directory of the report; a report that it holds is replaced. null: report/ in the directory of the run."""
