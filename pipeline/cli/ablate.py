"""The command ``foreguard ablate``: the grid of an experiment, a table of what came out, and its report."""

from typing import Any

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.plan import for_programs
from pipeline.ablation.run import run_ablation
from pipeline.reporting.commands import report
from pipeline.reporting.config import ReportConfig


def ablate(config: AblateConfig) -> dict[str, Any]:
    """Run an ablation, or continue it, and report it. Returns the headline of the report; of a dry run the plan.

    Raises ``UserError`` of the kind that fits.
    """
    reported: list[dict[str, Any]] = []
    steps = run_ablation(config, report=lambda: reported.append(report(ReportConfig(run=config.run))))
    return {"run": config.run, "dry_run": config.dry_run, "plan": for_programs(steps), **(reported[0] if reported else {})}
