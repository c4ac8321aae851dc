"""A folder is complete or not there."""

import shutil
from pathlib import Path

import pytest

from torchtune.files import written_whole


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
    (tmp_path / "b.torchtune-partial").mkdir()
    (tmp_path / "b.torchtune-partial" / "old").write_text("half")
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


def test_a_symlink_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nothing_yet"):
        link = tmp_path / f"to_{name}"
        link.symlink_to(name)
        fill(link, "whole")
        assert link.is_symlink()
        assert (tmp_path / name / "file").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="loop is a symlink that leads back to itself; remove it"):
        fill(tmp_path / "loop", "whole")


def test_what_cannot_be_renamed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    refused = {
        "/": "/ is the root of the file system; name a folder in it",
        "/dev": "/dev is a mount point, which cannot be replaced; name a folder in it",
        ".": "b is the current directory, or one that it lies in, and would be replaced; name a folder in it",
        "..": "a is the current directory, or one",
        "": "b is the current directory, or one",
    }
    for target, message in refused.items():
        with pytest.raises(ValueError, match=message):
            fill(Path(target), "whole", overwrite=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", here]
    fill(Path("c"), "whole")
    assert (here / "c" / "file").read_text() == "whole"


def test_a_directory_that_was_removed_under_us_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    fill(tmp_path / "b", "whole")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "b" / "file").read_text() == "whole"


def test_what_others_have_put_beside_it_stays(tmp_path: Path) -> None:
    for name in ("b.partial", "b.replaced"):
        fill(tmp_path / name, "precious")
    for _ in range(2):
        fill(tmp_path / "b", "whole", overwrite=True)
    assert {(p.parent.name, p.read_text()) for p in tmp_path.rglob("file")} == {
        ("b", "whole"),
        ("b.partial", "precious"),
        ("b.replaced", "precious"),
    }
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "c.torchtune-partial").touch()
    with pytest.raises(
        FileExistsError, match=r"c.torchtune-partial is no folder, and a folder was .* remove it"
    ):
        fill(tmp_path / "c", "whole")
