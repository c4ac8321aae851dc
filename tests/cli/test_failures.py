"""A failed run prints one line for a user error and a traceback for a bug."""

from pathlib import Path

import pytest

from torchtune.cli import main

RECIPE = """
from torchtune import config

class Fails:
    def __init__(self, x=1):
        {body}

@config.parse
def main(cfg):
    config.instantiate(cfg.part)
"""


@pytest.mark.parametrize(
    ("body", "status", "has_traceback"),
    [
        ("raise ValueError('x must be even')", 2, False),
        ("raise FileNotFoundError('no rows.json')", 2, False),
        ("{}['gone']", 1, True),
        ("raise RuntimeError('device side')", 1, True),
    ],
)
def test_component_error_is_printed_as_one_line_or_a_traceback(
    body: str, status: int, has_traceback: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"fails_{abs(hash(body))}.py"
    file.write_text(RECIPE.replace("{body}", body))
    (tmp_path / "my.yaml").write_text(f"part:\n  _component_: {file.stem}.Fails\n")
    assert main([str(file), "--config", str(tmp_path / "my.yaml")]) == status
    err = capsys.readouterr().err
    assert ("Traceback" in err) == has_traceback
    assert f"my.yaml:2: part: {file.stem}.Fails: " in err
