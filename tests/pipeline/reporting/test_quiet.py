"""What others log is kept out of the logs of a launcher, which shows all of it."""

import logging

import numpy as np
import pytest

from pipeline.evaluation.statistics import share
from pipeline.reporting.plots import bars


def test_a_figure_adds_no_line_to_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [("none", share(np.array([True, False, True]), np.arange(3)))]
    assert bars("name", "title", rows, xlabel="share", color="C0").pdf.startswith(b"%PDF")
    assert [record.getMessage() for record in caplog.records] == []
