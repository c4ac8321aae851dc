"""Mistakes in a Python config are reported in one list, with file and line but without a traceback."""

from pathlib import Path

import pytest

from tests.config.printed_mistakes import RECIPE, printed_mistakes

HEAD = """from tests.config.sample import *
from torchtune.config import lazy, nested, ref

def c() -> Config:
"""

# The body of the config function, starting on line 5, and its mistakes.
BODIES = {
    "return Config(output_dir='x', batch_sizee=3)": [
        "5: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?"
    ],
    "return Config()": ["5: output_dir: required (text); set output_dir=..."],
    "return Config(output_dir='x', batch_size=0)": ["5: batch_size: expected an int above 0, got 0"],
    "return Config(output_dir='x', batch_size='4')": ["5: batch_size: expected an int above 0, got '4'"],
    "return Config(output_dir='x', shuffle=1)": ["5: shuffle: expected true or false, got 1"],
    "return Config(output_dir=None)": ["5: output_dir: expected text, got null"],
    "return Config(output_dir='x', sizes=('a',))": ["5: sizes.0: expected an int, got 'a'"],
    "return Config(output_dir='x', dtype='fp23')": [
        "5: dtype: expected one of 'fp32', 'bf16', got 'fp23'; did you mean 'fp32'?"
    ],
    "cfg = Config(output_dir='x')\ncfg.batch_size = 3.7\nreturn cfg": [
        "6: batch_size: expected an int above 0, got 3.7"
    ],
    "cfg = Config(output_dir='x')\ncfg.batch_sizee = 3\nreturn cfg": [
        "6: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?"
    ],
    "return Config(\n    output_dir='x',\n    optimizer=lazy(\n        Adam,\n        lrr=1.0,\n    ),\n)": [
        "9: optimizer.lrr: tests.config.sample.Adam has no argument 'lrr'; did you mean 'lr'?"
    ],
    "return Config(\n    output_dir='x',\n    optimizer=lazy(\n        Adam,\n        lr='x',\n    ),\n)": [
        "9: optimizer.lr: expected a float, got 'x'"
    ],
    "return Config(output_dir='x', optimizer=lazy(Sgd))": [
        "5: optimizer: tests.config.sample.Sgd requires 'lr'"
    ],
    "return Config(output_dir='x', optimizer=lazy(Letters, path='x'))": [
        "5: optimizer: tests.config.sample.Letters builds a Letters, not an Optimizer"
    ],
    "return Config(output_dir='x', optimizer=Adam([]))": [
        "5: optimizer: a value of type tests.config.sample.Adam cannot be written to YAML; describe it with lazy(...)"
    ],
    "return Config(output_dir='x', optimizer=Adam)": [
        "5: optimizer: the class Adam cannot be written to YAML; use lazy(Adam, ...)"
    ],
    "return Config(output_dir='x', optimizer=lazy(lambda params: Adam(params)))": [
        "5: optimizer: a lambda has no dotpath; define a module-level function instead"
    ],
    "class Mine(Sgd):\n    pass\nreturn Config(output_dir='x', optimizer=lazy(Mine, lr=1.0))": [
        "7: optimizer: c.<locals>.Mine is defined inside a function; move it to module level"
    ],
    "import os\nreturn Config(output_dir='x', optimizer=lazy(os.system, 'true'))": [
        "6: optimizer: posix.system is not allowed"
    ],
    "return Config(output_dir='x', extra=[lazy(Rows, source=3)])": [
        "5: extra.0.source: expected text, got 3"
    ],
    "return Config(output_dir='x', dataset=lazy(concatenate, parts=[nested(Rows, nested(Letters, pth='x'))]))": [
        "5: dataset.parts.0.tokenizer.pth: tests.config.sample.Letters has no argument 'pth'; did you mean 'path'?",
    ],
    "return Config(output_dir='x', validation=Validation(interval=0))": [
        "5: validation.interval: expected an int above 0, got 0"
    ],
    "return Config(output_dir='x', validation=Validation(intervl=1))": [
        "5: validation.intervl: unknown field 'intervl'; did you mean 'interval'?"
    ],
    "cfg = Config(output_dir='x', validation=Validation())\ncfg.validation.interval = '3'\nreturn cfg": [
        "6: validation.interval: expected an int above 0, got '3'"
    ],
    "return Config(output_dir='x', batch_size=ref('epoch'))": [
        "5: batch_size: ${epoch} not found; did you mean 'epochs'?"
    ],
    "cfg = Config(output_dir='x')\ndel cfg.epochs\nreturn cfg": [
        "4: epochs: the field was deleted; a config must set every field"
    ],
    "cfg = Config(output_dir='x')\ncfg.tags = []\ncfg.tags.append(cfg.tags)\nreturn cfg": [
        "6: tags: the value contains itself, or is nested too deeply"
    ],
    "return Config(output_dir='x', limits={1: 2})": ["5: limits.1: expected a key that is text, got 1"],
    "return Config(output_dir='x', limits={'a': {1}})": ["5: limits.a: expected an int, got [1]"],
    "yield Config(output_dir='x')": ["4: c returns a generator; this recipe expects a Config"],
    "return 3": ["4: c returns an int; this recipe expects a Config"],
    "Config(output_dir='x')": ["4: c returns nothing; this recipe expects a Config"],
    "return 1 / 0": ["5: ZeroDivisionError: division by zero"],
    "return Config(output_dir=undefined)": ["5: NameError: name 'undefined' is not defined"],
    "return Config(output_dir='x'": ["5: not valid Python: '(' was never closed"],
    "return Config(output_dir='x', batch_sizee=1, batch_size=0, dtype='no', epochs=0)": [
        "5: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?",
        "5: dtype: expected one of 'fp32', 'bf16', got 'no'",
        "5: batch_size: expected an int above 0, got 0",
        "5: epochs: expected an int above 0, got 0",
    ],
}


@pytest.mark.parametrize(("number", "body"), list(enumerate(BODIES)))
def test_mistake_in_a_config_function_has_its_line_path_and_suggestion(
    number: int, body: str, tmp_path: Path
) -> None:
    file = tmp_path / f"broken_config_{number}.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    lines = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c"], tmp_path)
    expected = sorted(f"{file.name}:{line}" for line in BODIES[body])
    assert len(lines) == len(expected)
    for line, start in zip(sorted(lines), expected, strict=True):
        assert line.startswith(start)


INVALID_CONFIG_FILES = {
    "class c:\n    pass\n": "c is not a plain function that returns a config",
    "async def c():\n    pass\n": "c is not a plain function that returns a config",
    "c = 3\n": "no function 'c'",
    "def d(): ...\n": "no function 'c'",
    "def c(a): ...\n": "TypeError: c() missing 1 required positional argument: 'a'",
    "x = 1\0\n": "not valid Python: source code string cannot contain null bytes",
}


@pytest.mark.parametrize(("number", "text"), list(enumerate(INVALID_CONFIG_FILES)))
def test_invalid_config_function_is_reported_as_one_mistake(number: int, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"no_function_{number}.py"
    file.write_text(text)
    (line,) = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c"], tmp_path)
    assert line == f"{file.name}: {INVALID_CONFIG_FILES[text]}"


def test_cached_config_function_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "cached_function.py"
    file.write_text(
        "import functools\n" + HEAD.replace("def c", "@functools.cache\ndef c") + "    return plain()\n"
    )
    assert printed_mistakes(["validate", RECIPE, "--config", f"{file}:c"], tmp_path) == []


def test_failed_import_in_a_config_file_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken_import.py"
    file.write_text("x = 1\nimport nothing_like_it\n")
    (line,) = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c"], tmp_path)
    assert line == "broken_import.py:2: ModuleNotFoundError: No module named 'nothing_like_it'"


def test_python_and_command_line_mistakes_are_in_one_list(tmp_path: Path) -> None:
    file = tmp_path / "broken_both.py"
    file.write_text(HEAD + "    return Config(output_dir='x', batch_sizee=1)\n")
    lines = printed_mistakes(["validate", RECIPE, "--config", f"{file}:c", "seed=x", "epochs=0"], tmp_path)
    assert [line.split(": ")[1] for line in lines] == ["batch_sizee", "seed", "epochs"]
