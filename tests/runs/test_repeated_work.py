"""A run's config is built once, and each input is parsed once, regardless of how many times it is used."""

import ast
import collections
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config import sample
from torchtune.cli import main
from torchtune.config import ConfigError
from torchtune.config import _layers as layers_module
from torchtune.config import _yaml as yaml_module
from torchtune.config._structure import structure
from torchtune.config.model import Layers, read_yaml
from torchtune.runs import RunFolder
from torchtune.runs import _registry as registry_module
from torchtune.runs._folder import choose_seed

RECIPE = str(Path(sample.__file__))


@pytest.fixture
def built_trees(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Append the tree of every built config to a list, and return the list."""
    trees: list[object] = []

    def counted(tree: object, expected_type: Any, **options: bool) -> Any:
        trees.append(tree)
        return structure(tree, expected_type, **options)

    monkeypatch.setattr(layers_module, "structure", counted)
    return trees


def seed_in(folder: Path) -> object:
    return read_yaml(str(folder / "config.yaml")).value["seed"]


def mark_as_interrupted(folder: Path) -> None:
    """Turn a finished run into an interrupted run."""
    record = json.loads((folder / "run.json").read_text())
    del record["finished"]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").touch()


def test_new_resumed_and_overwritten_runs_build_their_config_once(
    tmp_path: Path, built_trees: list[object]
) -> None:
    folder, seeds = tmp_path / "r", []
    for args in ([], [], ["--overwrite"], ["seed=7", "--overwrite"]):
        built_trees.clear()
        assert main([RECIPE, f"output_dir={folder}", *args]) == 0
        assert len(built_trees) == 1
        assert sample.RUN_CONFIGS[-1].seed == seed_in(folder)
        seeds.append(sample.RUN_CONFIGS[-1].seed)
        mark_as_interrupted(folder)
    new, resumed, overwritten, explicit = seeds
    assert new == resumed != overwritten
    assert explicit == 7


def test_a_launcher_builds_the_config_once(tmp_path: Path, built_trees: list[object]) -> None:
    cfg, run = sample.main.prepare(sample.main.layers(None, [f"output_dir={tmp_path / 'r'}"]))
    assert len(built_trees) == 1
    assert run is not None
    assert cfg.seed == seed_in(tmp_path / "r")


def test_a_node_uses_the_seed_of_a_node_that_started_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [f"output_dir={tmp_path / 'r'}"]
    build = Layers.build

    def build_slowly(layers: Layers, subject: str = "the config") -> Any:
        monkeypatch.setattr(Layers, "build", build)
        sample.main.prepare(sample.main.layers(None, args))  # simulates the other node
        return build(layers, subject)

    monkeypatch.setattr(Layers, "build", build_slowly)
    cfg, run = sample.main.prepare(sample.main.layers(None, args))
    assert run is not None
    assert cfg.seed == seed_in(tmp_path / "r")


def test_mistakes_are_reported_before_the_output_folder_is_created_or_locked(
    tmp_path: Path, built_trees: list[object]
) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        sample.main.run(sample.main.layers(None, [f"output_dir={tmp_path / 'r'}", "batch_size=0"]))
    assert not (tmp_path / "r").exists()
    assert len(built_trees) == 1
    sample.main.run(sample.main.layers(None, [f"output_dir={tmp_path / 'r'}"]))
    with RunFolder(tmp_path / "r").lock("a run"), pytest.raises(ConfigError, match="batch_size"):
        sample.main.run(sample.main.layers(None, [f"output_dir={tmp_path / 'r'}", "batch_size=0"]))


def test_a_recipe_without_a_folder_keeps_its_null_seed() -> None:
    layers = Layers(None, {"seed": None})
    choose_seed(layers)
    assert layers.tree == {"seed": None}
    for unreadable in ("a\0b", "x" * 5000, 3, None):
        layers = Layers(None, {"seed": None, "output_dir": unreadable})
        choose_seed(layers)
        assert isinstance(layers.tree["seed"], int) == isinstance(unreadable, str)


@pytest.fixture
def parse_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[collections.Counter[str]]:
    """Yield a counter of the number of times that each string is parsed as YAML or Python."""
    counts: collections.Counter[str] = collections.Counter()

    def counted(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_counted(text: str, *args: Any, **kwargs: Any) -> Any:
            counts[text] += 1
            return parse(text, *args, **kwargs)

        return parse_counted

    caches: tuple[Any, ...] = (registry_module._parsed, yaml_module._parsed)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(yaml, "compose", counted(yaml.compose))
    monkeypatch.setattr(ast, "parse", counted(ast.parse))
    yield counts
    for cached in caches:
        cached.cache_clear()


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recipes", "configs_py", "configs_yaml")
CALLS = [
    ["show", "lora_finetune", "--config", "smollm2_135m_lora", "--origins"],
    ["validate", "lora_finetune", "--config", "over.yaml"],
    ["validate", "lora_finetune", "--config", "smollm2_135m_lor"],
    ["validate", "--all", "."],
    ["diff", "over.yaml", "smollm2_135m_lora"],
    ["diff", "mine_once.py:mine", "over.yaml"],
    ["ls"],
]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_each_input_is_parsed_once(
    call: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parse_counts: collections.Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("_base_: smollm2_135m_lora\nseed: 3\n")
    (tmp_path / "over.yaml").write_text("_base_: base.yaml\nseed: 4\n")
    (tmp_path / "mine_once.py").write_text(
        "from configs_py.smollm2 import smollm2_135m_lora\nfrom recipes.lora_finetune import LoraFinetuneConfig\n"
        "def mine() -> LoraFinetuneConfig:\n    return smollm2_135m_lora()\n"
    )
    main(call)
    inputs = [*tmp_path.iterdir(), *(f for name in PACKAGES for f in (ROOT / name).iterdir() if f.is_file())]
    times = {file.name: parse_counts[file.read_text()] for file in inputs}
    assert max(times.values()) == 1, times


def test_new_and_resumed_runs_parse_each_input_once(
    tmp_path: Path, parse_counts: collections.Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text(f"output_dir: {tmp_path / 'r'}\n")
    call = [RECIPE, "--config", str(tmp_path / "my.yaml")]
    assert main(call) == 0
    assert max(parse_counts.values()) == 1
    mark_as_interrupted(tmp_path / "r")
    parse_counts.clear()
    assert main(call) == 0
    assert main([RECIPE, "--config", str(tmp_path / "r")]) == 2  # the run has finished
    assert max(parse_counts.values()) == 1


def test_changing_a_document_does_not_affect_the_cache(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("a: {b: [1]}\na: 2\n")
    first = read_yaml(str(tmp_path / "my.yaml"))
    first.value["a"]["b"].append(2)
    first.mistakes.clear()
    second = read_yaml(str(tmp_path / "my.yaml"))
    assert second.value == {"a": {"b": [1]}}
    assert len(second.mistakes) == 1
