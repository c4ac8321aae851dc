"""An invalid recipe or config name is reported as one mistake that explains the problem."""

from pathlib import Path

import pytest

from tests.config.printed_mistakes import RECIPE, printed_mistakes

LONG = "a" * 300

NAMES = {
    "": "--config: expected a value",
    "sampl": "no config 'sampl'",
    "smollm2_135m_lor": "no config 'smollm2_135m_lor'; did you mean 'smollm2_135m_lora'?",
    LONG: f"no config '{LONG}'",
    f"{LONG}.yaml": f"{LONG}.yaml: no such file",
    f"{LONG}.py": f"{LONG}.py: no such file",
    "none.yaml": "none.yaml: no such file",
    "none.py": "none.py: no such file",
    "none.py:c": "none.py: no such file",
    "folder.py": "folder.py: this is a folder, not a Python file",
    "folder.yaml": "folder.yaml: the file cannot be read: Is a directory",
    "folder": "folder/config.yaml: no such file",
    "text.txt": "text.txt: expected file.yaml, file.py:function or a run's folder",
    "/dev/null": "/dev/null: expected file.yaml, file.py:function or a run's folder",
    "bytes.yaml": "bytes.yaml: not UTF-8 text: byte 3 cannot be decoded",
    "base_of_none.yaml": "base_of_none.yaml:2: _base_: none.yaml: no such file",
    "base_of_itself.yaml": "base_of_itself.yaml:1: _base_: base_of_itself.yaml: _base_ leads back to this file",
    "base_of_empty.yaml": "base_of_empty.yaml:1: _base_: the config's name is empty",
    "base_of_number.yaml": "base_of_number.yaml:1: _base_: expected a registered config or a YAML file, got 3",
    "base_of_broken.yaml": "broken.yaml:1: not valid YAML",
    "base_of_wrong.yaml": "wrong.yaml:2: batch_size: expected an int above 0, got 'x'",
}

FILES = {
    "text.txt": b"hello\n",
    "bytes.yaml": b"a: \xff\n",
    "base_of_none.yaml": b"seed: 1\n_base_: none.yaml\n",
    "base_of_itself.yaml": b"_base_: base_of_itself.yaml\n",
    "base_of_empty.yaml": b"_base_: ''\n",
    "base_of_number.yaml": b"_base_: 3\n",
    "base_of_broken.yaml": b"_base_: broken.yaml\n",
    "base_of_wrong.yaml": b"_base_: wrong.yaml\n",
    "broken.yaml": b"tags: [a\n",
    "wrong.yaml": b"output_dir: x\nbatch_size: x\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder that contains `FILES`."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in ("folder", "folder.py", "folder.yaml", "smollm2_135m_lora"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_invalid_config_name_is_reported_as_one_mistake(name: str, folder: Path) -> None:
    (mistake,) = printed_mistakes(["validate", RECIPE, "--config", name], folder)
    assert mistake.startswith(NAMES[name])


def test_registered_name_takes_precedence_over_a_folder_of_the_same_name(folder: Path) -> None:
    assert printed_mistakes(["show", "lora_finetune", "--config", "smollm2_135m_lora"], folder) == []
    (mistake,) = printed_mistakes(["validate", RECIPE, "--config", "./smollm2_135m_lora"], folder)
    assert mistake == "smollm2_135m_lora/config.yaml: no such file"


RECIPES = {
    "def main(cfg): ...\n": (
        "expected one recipe, a main(cfg) decorated with @config.parse; found no decorated function"
    ),
    "@config.parse\ndef main(): ...\n": "main: expected a function with one argument, the config",
    "@config.parse\ndef main(a, b): ...\n": "main: expected a function with one argument, the config",
    "@config.parse\ndef main(cfg: int) -> None: ...\n": "main: expected an attrs class or a dataclass as annotation",
    "@config.parse\ndef main(cfg: 'Nope') -> None: ...\n": "main: the annotation 'Nope' is not defined",
    "class C:\n    x: 'Missing' = 1\nC = attrs.define(C)\n@config.parse\ndef main(cfg: C) -> None: ...\n": (
        "x: its annotation 'Missing' cannot be resolved"
    ),
    "raise SystemExit('no')\n": "SystemExit: no",
    "def main(:\n": "not valid Python",
}


@pytest.mark.parametrize(("number", "text"), list(enumerate(RECIPES)))
def test_invalid_recipe_is_reported_as_one_mistake(number: int, text: str, folder: Path) -> None:
    file = folder / f"wrong_recipe_{number}.py"
    file.write_text(f"import attrs\nfrom torchtune import config\n{text}")
    (mistake,) = printed_mistakes(["validate", str(file), "x=1"], folder)
    assert mistake.startswith(file.stem)
    assert RECIPES[text] in mistake


def test_recipe_file_that_cannot_be_imported_by_name_should_be_renamed(
    folder: Path,
) -> None:
    file = folder / "my-recipe.py"
    file.write_text(
        "import attrs\nfrom torchtune import config\nclass Own: ...\n"
        "@attrs.define(kw_only=True)\nclass C:\n    own: config.Component[Own] = config.lazy(Own)\n"
        "@config.parse\ndef main(cfg: C) -> None: ...\n"
    )
    (mistake,) = printed_mistakes(["validate", str(file)], folder)
    assert (
        mistake == "default of C: own: Own is defined in 'my-recipe', an invalid module name; rename the file"
    )
