"""What can be chosen of a report."""

from pipeline.config import AnyPath, configuration


@configuration
class ReportConfig:
    """Turn the records of an ablation or an evaluation into a page that opens offline, tables and figures."""

    run: AnyPath
    """Directory of the ablation or of one evaluation. It is only read."""
    out: AnyPath | None = None
    """Directory of the report; a report that it holds is replaced. null: report/ in the directory of the run."""
