"""The docs build without warnings and without network access."""

import subprocess
import sys
from pathlib import Path

import pytest

import torchtune.data
import torchtune.modules
import torchtune.training

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_docs_build_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    completed = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert "glossary.html#term-recipe" in (tmp_path / "index.html").read_text(), (
        "terms are linked to the glossary"
    )
    scorer = (ROOT / "docs/_static/scorer.js").read_text()
    assert scorer.strip() in (tmp_path / "_static/language_data.js").read_text(), (
        "the search ranks by the scorer"
    )
    recipes = (tmp_path / "reference/recipes.html").read_text()
    assert "lora.dropout" in recipes
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    for package in (torchtune.training, torchtune.data, torchtune.modules):
        name = package.__name__
        text = (tmp_path / f"reference/{name.rpartition('.')[2]}.html").read_text()
        assert [attribute for attribute in package.__all__ if f'id="{name}.{attribute}"' not in text] == []
