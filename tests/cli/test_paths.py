"""Paths in configs and on the command line: `~`, trailing slashes, spaces, and links."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import define

import torchtune.datasets
import torchtune.models
import torchtune.tokenizers
import torchtune.utils.metric_logging
from tests.tiny_run import Tiny, tiny_run
from tests.tune import Tune
from torchtune.config import ConfigError, LocalPath, resolve
from torchtune.config.model import Layers, freeze, is_path, parameters, slots, value_at
from torchtune.formats import hf_decoder
from torchtune.runs import config_names, load_recipe, override
from torchtune.tokenizers import BaseTokenizer, auto_tokenizer
from torchtune.utils.metric_logging import MetricLogger

CONFIGS = [(recipe, name) for recipe, names in config_names().items() for name in names]
PATH_LIKE_NAME = re.compile(r"(^|_)(dir|directory|path|file|folder|source|cache)$|^chat_template$")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use new folders as the home folder and the working directory, and return the home folder."""
    folders = tmp_path / "home", tmp_path / "work"
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("HOME", str(folders[0]))
    monkeypatch.chdir(folders[1])
    return folders[0]


def typed_fields(declared: Any, tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield the path and the type of every field and argument in a config."""
    for key, slot in slots(declared, tree).items():
        slot_path = (*path, key)
        yield slot_path, slot.type
        value = value_at(tree, slot_path[-1:]) if isinstance(tree, list) or key in (tree or ()) else None
        yield from typed_fields(slot.type, value, slot_path)


def components() -> Iterator[Callable[..., Any]]:
    yield from (getattr(torchtune.datasets, n) for n in torchtune.datasets.__all__ if n.endswith("Dataset"))
    tokenizers = [getattr(torchtune.tokenizers, name) for name in torchtune.tokenizers.__all__]
    yield from (t for t in tokenizers if inspect.isclass(t) and issubclass(t, BaseTokenizer))
    yield from (auto_tokenizer, hf_decoder)
    loggers = vars(torchtune.utils.metric_logging).values()
    yield from (logger for logger in loggers if inspect.isclass(logger) and issubclass(logger, MetricLogger))
    for module in pkgutil.iter_modules(torchtune.models.__path__, "torchtune.models."):
        family = importlib.import_module(module.name)
        yield from (value for name, value in vars(family).items() if name.endswith("_tokenizer"))


@pytest.mark.parametrize(("recipe", "config"), CONFIGS)
def test_every_field_named_like_a_path_is_declared_as_a_path(recipe: str, config: str) -> None:
    loaded = load_recipe(recipe)
    path_fields = {
        path: declared
        for path, declared in typed_fields(loaded.config_class, freeze(loaded.layers(config)).tree)
        if PATH_LIKE_NAME.search(str(path[-1]))
    }
    assert len(path_fields) >= 5
    assert [path for path, declared in path_fields.items() if not is_path(declared)] == []


def test_every_component_argument_named_like_a_path_is_declared_as_a_path() -> None:
    path_arguments = [
        (component.__name__, p.name, p.type)
        for component in components()
        for p in parameters(component).values()
        if PATH_LIKE_NAME.search(p.name)
    ]
    assert len(path_arguments) > 30
    assert [(owner, name) for owner, name, declared in path_arguments if not is_path(declared)] == []


@pytest.mark.parametrize(("recipe", "config"), CONFIGS)
def test_home_is_expanded_in_every_path_in_a_config(recipe: str, config: str, home: Path) -> None:
    loaded = load_recipe(recipe)
    tree = freeze(loaded.layers(config)).tree
    paths = [path for path, declared in typed_fields(loaded.config_class, tree) if is_path(declared)]
    overrides = [f"{'.'.join(map(str, path))}=~/a b/{i}/" for i, path in enumerate(paths)]
    frozen = freeze(loaded.layers(config, overrides)).tree
    assert [value_at(frozen, path) for path in paths] == [f"{home}/a b/{i}" for i in range(len(paths))]


def test_home_is_expanded_in_yaml_in_bases_and_in_config_names(tune: Tune, home: Path) -> None:
    (home / "base.yaml").write_text("_base_: smollm2_135m_lora\nmodel_directory: ~/models/one/\n")
    (home / "my run.yaml").write_text("_base_: ~/base.yaml\noutput_dir: ~/runs/two words\n")
    exported = tune("export", "lora_finetune", "--config=~/my run.yaml")
    assert exported.status == 0, exported.err
    assert f"model_directory: {home}/models/one\n" in exported.out
    assert (
        f"  log_dir: {home}/runs/two words\n" in tune("show", "--config=~/my run.yaml", "lora_finetune").out
    )
    (home / "frozen.yaml").write_text(exported.out)
    assert tune("export", "lora_finetune", "--config", "~/frozen.yaml").out == exported.out


@define(kw_only=True)
class UserConfig:
    """A user's config class."""

    output_dir: str = "~/runs"
    folder: Path | None = None
    either: str | Path = "~/either"
    files: list[LocalPath] = ["~/a", "b/", "/"]  # noqa: RUF008 -- the default is never modified
    by_name: dict[str, LocalPath] = {"one": "~"}  # noqa: RUF008 -- the default is never modified
    text: str = "~/text/"
    joined: LocalPath = "${text}b"


def test_user_config_class_declares_paths_by_type(home: Path) -> None:
    cfg = resolve(UserConfig(folder=Path("~/folder")))
    assert cfg.output_dir == f"{home}/runs"
    assert cfg.folder == home / "folder"
    assert Path(cfg.either) == home / "either"
    assert cfg.files == [f"{home}/a", "b", "/"]
    assert cfg.by_name == {"one": str(home)}
    assert cfg.text == "~/text/"  # not declared as a path
    assert cfg.joined == f"{home}/text/b"


def test_home_is_expanded_in_a_recipe_without_a_config_class(home: Path) -> None:
    logger = {"_component_": "torchtune.utils.metric_logging.DiskLogger", "log_dir": "x"}
    layers = Layers(None, {"output_dir": "x", "logger": logger})
    override(layers, [("output_dir", "~/runs"), ("logger.log_dir", "~/log")])
    cfg = layers.build()
    assert (cfg.output_dir, cfg.logger.log_dir) == (f"{home}/runs", f"{home}/log")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "~nobody-of-this-name/x",
            "~nobody-of-this-name has no home folder; if this is a file name that begins with ~",
        ),
        ("$HOME/x", "a path cannot begin with the environment variable $HOME; let the shell expand it"),
        ("$SCRATCH", "a path cannot begin with the environment variable $SCRATCH"),
    ],
)
def test_path_without_a_valid_home_folder_is_reported_as_one_mistake(
    tune: Tune, text: str, message: str, home: Path
) -> None:
    call = ("validate", "lora_finetune", "--config", "smollm2_135m_lora")
    result = tune(*call, f"model_directory={text}")  # the tokenizer's paths refer to this field
    assert result.status == 2
    assert f"model_directory={text}: model_directory: {message}" in result.err
    assert len(result.err.splitlines()) == 2
    with pytest.raises(ConfigError, match=re.escape(message[:30])):
        resolve(UserConfig(folder=Path(text)))
    assert not any(home.iterdir())


def test_paths_that_only_resemble_the_home_folder_are_not_expanded() -> None:
    cfg = resolve(UserConfig(files=["./~x", "a/~/b", "./$HOME", "a b", "../c", ""]))
    assert cfg.files == ["./~x", "a/~/b", "./$HOME", "a b", "../c", ""]


def test_unknown_user_in_an_argument_is_reported_as_a_mistake(tune: Tune) -> None:
    result = tune("download", "owner/name", "--output-dir=~nobody-of-this-name/x")
    assert result.status == 2
    assert "~nobody-of-this-name has no home folder" in result.err


@pytest.fixture
def tiny(tune: Tune, home: Path) -> Tiny:
    (home / "my data").mkdir()
    return tiny_run(home / "my data", lambda *args: tune(*args).status)


@pytest.mark.slow
def test_run_resumes_if_paths_have_home_spaces_links_and_slashes(tune: Tune, tiny: Tiny, home: Path) -> None:
    work = Path.cwd()
    (home / "linked model").symlink_to(home / "my data/model")
    (home / "disk").mkdir()
    (home / "runs").symlink_to(home / "disk")
    overrides = [*tiny.overrides[:-1], "device=cpu", "validation=null", "dataset.source=~/my data/rows.json"]
    overrides += ["loading.token_cache=~/cache of rows/", "batch_size=12"]
    call = ["lora_finetune", "--config", "smollm2_135m_lora", *overrides]
    result = tune(*call, "model_directory=~/linked model/", "output_dir=~/runs/a b/", "max_steps=1")
    assert result.status == 0, result.err
    assert (home / "disk/a b/final/adapter_config.json").is_file()
    assert (home / "disk/a b/log.txt").is_file()
    assert any((home / "cache of rows").iterdir())
    assert not any(work.iterdir())

    frozen = (home / "disk/a b/config.yaml").read_text()
    assert yaml.safe_load(frozen)["model_directory"] == f"{home}/linked model"  # YAML folds long paths
    assert "~" not in frozen
    adapter_config = json.loads((home / "disk/a b/final/adapter_config.json").read_text())
    assert adapter_config["base_model_name_or_path"] == f"{home}/linked model"

    same = ["model_directory=~/linked model", f"output_dir={home}/runs/a b", "max_steps=1"]
    repeated = tune(*call, *same)
    assert repeated.status == 2
    assert "finished" in repeated.err  # the same run, even though its paths are spelled differently
    extended = tune(*call, *same[:2], "max_steps=2", "epochs=2", "--extend")
    assert extended.status == 0, extended.err
