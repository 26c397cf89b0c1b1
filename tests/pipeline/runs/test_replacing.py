"""Directories that are there whole or not at all."""

from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.runs.replacing import new_directory


def test_what_appears_meanwhile_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def make(*, replace: bool) -> None:
        with new_directory(target, replace=replace) as made:
            (made / "new").touch()
            target.mkdir(exist_ok=True)
            (target / "meanwhile").touch()

    with pytest.raises(RunError, match=r"target: cannot be written: Directory not empty$"):
        make(replace=False)
    assert [path.name for path in target.iterdir()] == ["meanwhile"]
    make(replace=True)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with new_directory(tmp_path / "target", replace=False) as made:
        (made / "new").touch()
    assert (tmp_path / "target" / "new").is_file()


@pytest.mark.parametrize("replace", [False, True])
def test_a_link_goes_on_pointing_to_the_directory_that_is_made(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_directory(tmp_path / "link", replace=replace) as made:
        (made / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "new").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_a_failure_of_the_filling_is_not_told_as_one_of_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a run that is read"), new_directory(tmp_path / "target"):
        raise FileNotFoundError(2, "a run that is read")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"), new_directory(tmp_path / "file" / "target"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
