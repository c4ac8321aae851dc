"""A folder is complete or not there."""

from pathlib import Path

import pytest

from torchtune.models import written_whole


def fill(target: Path, text: str, *, overwrite: bool = False) -> None:
    with written_whole(target, overwrite=overwrite) as folder:
        assert not list(folder.iterdir())
        (folder / "file").write_text(text)


def test_a_folder_appears_once_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with written_whole(target) as folder:
        (folder / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_what_a_killed_attempt_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "old").write_text("half")
    fill(tmp_path / "b", "whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "file"]


def test_an_attempt_that_fails_leaves_nothing_and_the_old_folder_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "b", "old")
    with pytest.raises(TypeError):
        fill(tmp_path / "b", 3, overwrite=True)  # type: ignore[arg-type]  # Fails in the middle.
    assert (tmp_path / "b" / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_folder_with_something_in_it_is_replaced_only_when_asked(tmp_path: Path) -> None:
    fill(tmp_path / "b", "old")
    with pytest.raises(FileExistsError, match=r"b is not empty; remove it or choose another folder"):
        fill(tmp_path / "b", "new")
    assert (tmp_path / "b" / "file").read_text() == "old"
    fill(tmp_path / "b", "new", overwrite=True)
    assert (tmp_path / "b" / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    fill(tmp_path / "b", "whole")
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError, match="c is a file, a folder was to be written there"):
        fill(tmp_path / "c", "whole", overwrite=True)
