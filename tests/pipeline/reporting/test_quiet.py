"""What others log is kept out of the logs of a launcher, which shows all of it."""

import logging

import numpy as np
import pytest

from pipeline.evaluation.statistics import share
from pipeline.reporting.panel import RC
from pipeline.reporting.plots import bars


def test_a_figure_embeds_its_fonts_as_journals_ask_and_adds_no_line_to_a_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, shipped_fonts: int
) -> None:
    monkeypatch.setitem(RC, "pdf.fonttype", shipped_fonts)
    caplog.set_level(logging.INFO)
    rows = [("none", share(np.array([True, False, True]), np.arange(3)))]
    pdf = bars("name", "title", rows, xlabel="share", color="C0").pdf
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType; many journals refuse Type 3
    assert b"/Type3" not in pdf
    assert [record.getMessage() for record in caplog.records] == []
