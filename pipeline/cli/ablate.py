"""The command ``foreguard ablate``: the grid of an experiment, a table of what came out, and its report."""

from pipeline.ablation.config import AblateConfig


def ablate(config: AblateConfig) -> None:
    """Run an ablation, or continue it, and report it. Raises ``UserError`` of the kind that fits."""
    # What only the work itself needs: neither --help nor a typo should wait for it.
    from pipeline.ablation.run import run_ablation
    from pipeline.reporting.commands import report
    from pipeline.reporting.config import ReportConfig

    run_ablation(config, report=lambda: report(ReportConfig(run=config.run)))
