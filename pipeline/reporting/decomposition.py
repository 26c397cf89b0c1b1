"""Where the robustness went on the way from oracle masks to learned ones, and what the outline alone gives away."""

from pipeline.reporting.section import Section
from pipeline.reporting.study import Study


def decomposition_section(study: Study) -> Section:
    """The section, or what is missing for it."""
    return Section(
        name="decomposition",
        title="Where did the robustness go?",
        intro="",
        missing="The run holds no decomposition; an ablation with decomposition in its experiment makes one.",
    )
