"""The pages build without a warning and without the network."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*call, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    recipes = (tmp_path / "reference/recipes.html").read_text()
    assert "lora.dropout" in recipes
    for page in (
        "index",
        "install",
        "overview",
        "recipe_deepdive",
        "config_tutorial",
        "trust",
        "reference/tune",
    ):
        assert (tmp_path / f"{page}.html").is_file()
