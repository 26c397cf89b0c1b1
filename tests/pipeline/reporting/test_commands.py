"""``foreguard report``: what it writes, where, and what it refuses."""

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.errors import RunError
from pipeline.evaluation.summary import Summary
from pipeline.reporting.commands import MARKER, replace_directory, report
from pipeline.reporting.config import ReportConfig
from pipeline.runs.files import write_sealed


@pytest.fixture
def small_run(simulated, tmp_path) -> Path:
    return simulated.write_ablation(tmp_path / "run", num_images=20, seeds=(0,), arms=simulated.ARMS[:2], with_gallery=False)


def tree(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


def test_the_same_run_gives_the_same_bytes(small_run, tmp_path, capsys):
    assert main(["report", f"run={small_run}"]) == 0
    shown = capsys.readouterr().out
    assert "Naturally trained classifier, attacked at 8/255 (trusted): With the data set's own (oracle) masks" in shown
    assert f"report: {small_run / 'report' / 'index.html'}" in shown
    report(ReportConfig(run=small_run, out=tmp_path / "again"))
    assert tree(small_run / "report") == tree(tmp_path / "again")


def test_every_table_and_figure_is_a_file_and_the_marker_lists_them(reported):
    files = set(tree(reported)) - {MARKER}
    assert files == set(json.loads((reported / MARKER).read_text())["files"])
    text = (reported / "index.html").read_text()
    assert {"tables/headline.csv", "tables/headline.tex", "figures/robustness-adversarial.svg"} <= files
    quoted = {"methods.txt", "methods.tex", "cite.bib"}
    assert quoted < files
    assert all(name in text for name in quoted)
    for name in files - {"index.html"} - quoted:
        stem = name.rsplit(".", 1)[0]
        assert stem in text
        assert {f"{stem}.csv", f"{stem}.tex"} <= files or {f"{stem}.svg", f"{stem}.pdf"} <= files


def test_figures_are_drawings_with_text_and_without_a_date(reported):
    drawings, prints = (sorted((reported / "figures").glob(f"*.{kind}")) for kind in ("svg", "pdf"))
    assert len(drawings) == len(prints) > 3
    for path in drawings:
        root = ElementTree.parse(path).getroot()
        words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
        assert re.search("epsilon|mask IoU|lost|mean confidence", words)
        assert "<dc:date>" not in path.read_text()
    for path in prints:
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"CreationDate" not in content


def test_a_report_takes_the_place_of_an_older_one_and_of_nothing_else(small_run, reported, tmp_path, capsys):
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    assert main(["report", f"run={small_run}", f"out={target}"]) == 2
    assert "holds something that is not a report" in capsys.readouterr().err
    assert tree(target) == {"thesis.txt": b"mine"}
    shutil.rmtree(target)
    shutil.copytree(reported, target)  # of another run
    (target / "old.svg").write_text("of an older version")
    assert main(["report", f"run={small_run}", f"out={target}"]) == 0
    assert "old.svg" not in tree(target)
    assert tree(target)["index.html"] != tree(reported)["index.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


@pytest.mark.parametrize("failing_call", range(4))
def test_a_report_is_whole_or_not_there(tmp_path, monkeypatch, failing_call):
    """Whatever write fails, the old report is still whole, and nothing is left lying about."""
    target = tmp_path / "report"
    replace_directory(target, {MARKER: b"{}", "index.html": b"old"})
    calls = iter(range(100))
    write, rename = Path.write_bytes, os.replace

    def fail() -> None:
        if next(calls) == failing_call:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", lambda path, content: (fail(), write(path, content))[1])
    monkeypatch.setattr(os, "replace", lambda one, other: (fail(), rename(one, other))[1])
    with pytest.raises(RunError, match="No space left"):
        replace_directory(target, {MARKER: b"{}", "index.html": b"new"})
    monkeypatch.undo()
    assert tree(target) == {MARKER: b"{}", "index.html": b"old"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_run_that_cannot_be_reported_is_refused_with_the_remedy(small_run, tmp_path, capsys):
    def refused(run: Path) -> str:
        assert main(["report", f"run={run}"]) == 2
        return capsys.readouterr().err

    assert "no such directory" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds neither ablation.json nor an evaluation" in refused(tmp_path / "empty")
    about = json.loads((small_run / "ablation.json").read_text())
    evaluation = small_run / about["arms"][0]["evaluation"]
    part = next((evaluation / "records").glob("*.parquet"))
    content = part.read_bytes()
    part.write_bytes(content[:-9])
    assert f"{part.name}: damaged" in refused(small_run)
    part.unlink()
    assert "resume=true makes what is missing" in refused(small_run)
    part.write_bytes(content)
    summary = Summary.read(evaluation / "summary.json")
    replace(summary, norm="l2").write(evaluation / "summary.json")
    assert "report them apart" in refused(small_run)
    (evaluation / "summary.json").write_text("{")
    assert "summary.json: damaged (no JSON: " in refused(small_run)
    (small_run / "ablation.json").write_text(json.dumps(about | {"experiment": "x"}))
    assert "ablation.json: damaged or edited (its checksum differs); run ablate again with resume=true" in refused(small_run)
    write_sealed(small_run / "ablation.json", about, version=9)
    assert "format 9 is not format 1" in refused(small_run)
    assert not (small_run / "report").exists()


def test_an_arm_that_is_not_finished_is_left_out_and_named(small_run):
    about = json.loads((small_run / "ablation.json").read_text())
    (small_run / about["arms"][1]["evaluation"] / "summary.json").unlink()
    report(ReportConfig(run=small_run))
    text = (small_run / "report" / "index.html").read_text()
    assert f"The arm {about['arms'][1]['name']} was not evaluated to its end" in text
