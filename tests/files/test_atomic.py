"""Folders are written atomically."""

import shutil
from pathlib import Path

import pytest

from torchtune.files import atomic_folder


def fill(target: Path, text: str, *, overwrite: bool = False) -> None:
    with atomic_folder(target, overwrite=overwrite) as folder:
        assert not list(folder.iterdir())
        (folder / "file").write_text(text)


def test_a_folder_appears_once_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("complete")
        assert not target.exists()
    assert (target / "file").read_text() == "complete"
    assert list(target.parent.iterdir()) == [target]


def test_the_temporary_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / "b.torchtune-partial").mkdir()
    (tmp_path / "b.torchtune-partial" / "old").write_text("half")
    fill(tmp_path / "b", "complete")
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "file"]


def test_a_failed_write_leaves_only_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "b", "old")
    with pytest.raises(TypeError):
        fill(tmp_path / "b", 3, overwrite=True)  # type: ignore[arg-type]  # fails while it writes
    assert (tmp_path / "b" / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_a_non_empty_folder_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    fill(tmp_path / "b", "old")
    with pytest.raises(FileExistsError, match=r"b is not empty; remove it or choose another folder"):
        fill(tmp_path / "b", "new")
    assert (tmp_path / "b" / "file").read_text() == "old"
    fill(tmp_path / "b", "new", overwrite=True)
    assert (tmp_path / "b" / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_an_empty_folder_is_replaced_but_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    fill(tmp_path / "b", "complete")
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError, match="c is a file; expected a folder"):
        fill(tmp_path / "c", "complete", overwrite=True)


def test_a_symlink_is_kept_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        link = tmp_path / f"to_{name}"
        link.symlink_to(name)
        fill(link, "complete")
        assert link.is_symlink()
        assert (tmp_path / name / "file").read_text() == "complete"
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="loop is a symlink loop; remove it"):
        fill(tmp_path / "loop", "complete")


def test_folders_that_cannot_be_renamed_are_rejected_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = tmp_path / "a" / "b"
    current.mkdir(parents=True)
    monkeypatch.chdir(current)
    messages = {
        "/": "/ is the root of the file system; choose a folder inside it",
        "/dev": "/dev is a mount point, which cannot be replaced; choose a folder inside it",
        ".": "b is the working directory or one of its parents, and would be replaced; choose a folder inside it",
        "..": "a is the working directory or one of its parents",
        "": "b is the working directory or one of its parents",
    }
    for target, message in messages.items():
        with pytest.raises(ValueError, match=message):
            fill(Path(target), "complete", overwrite=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", current]
    fill(Path("c"), "complete")
    assert (current / "c" / "file").read_text() == "complete"


def test_folders_are_written_even_if_the_current_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    fill(tmp_path / "b", "complete")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "b" / "file").read_text() == "complete"


def test_folders_with_similar_names_are_kept(tmp_path: Path) -> None:
    for name in ("b.partial", "b.replaced"):
        fill(tmp_path / name, "precious")
    for _ in range(2):
        fill(tmp_path / "b", "complete", overwrite=True)
    assert {(p.parent.name, p.read_text()) for p in tmp_path.rglob("file")} == {
        ("b", "complete"),
        ("b.partial", "precious"),
        ("b.replaced", "precious"),
    }
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "c.torchtune-partial").touch()
    with pytest.raises(
        FileExistsError, match=r"c.torchtune-partial is not a folder, but a temporary .* remove it"
    ):
        fill(tmp_path / "c", "complete")
