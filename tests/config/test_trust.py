"""Code that untrusted YAML names is neither imported nor run."""

import sys
from pathlib import Path

import pytest

from tests.config import sample
from torchtune.config import (
    ConfigError,
    InstantiationError,
    Node,
    Trust,
    allow,
    instantiate,
    only_trusting,
    parse,
)
from torchtune.config._trust import path_rejection
from torchtune.config.model import trust_folder_of
from torchtune.runs import config_layers

REJECTED = {
    "os.system": "in the standard library",
    "builtins.eval": "in the standard library",
    "torch.load": "in torch, only torch.nn, torch.optim, torch.utils.data are trusted",
    "torch.hub.load": "in torch, only",
    "torch.utils.cpp_extension.load": "in torch, only",
    "torch.ops.load_library": "in torch, only",
    "torch.nn.functional.relu": "",
    "torch.nn.Module.load_state_dict": "not a class attribute",
    "torch.optim.Optimizer.load_state_dict": "not a class attribute",
    "torch.nn.modules.module.torch.load": "",
    "recipes.full_finetune.main": "",
    "recipes.alpaca_generate.Path": "which is not trusted",
    "torchtune.formats.convert": "accepts only models, datasets, optimizers and similar components",
    "torchtune.files.atomic_folder": "accepts only models, datasets, optimizers and similar components",
    "torchtune.cli.main": "torchtune.cli contains no components",
    "torchtune.cli._cp.os.system": "torchtune.cli contains no components",
    "torchtune.datasets._local.json.loads": "is private; use a name that its package exports",
    "torchtune.config.allow": "torchtune.config contains no components",
    "torchtune.datasets._alpaca.AlpacaDataset": "is private; use torchtune.datasets.AlpacaDataset",
    "evil.run": "'evil' is not trusted",
}


@pytest.fixture
def untrusted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with modules that create the file `trace` when imported."""
    trace = f"open({str(tmp_path / 'trace')!r}, 'w')\ndef run(): pass\n"
    for name in ("evil.py", "torch.py", "attrs.py"):
        (tmp_path / name).write_text(trace)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("path", "reason"), REJECTED.items())
def test_dangerous_dotpath_is_rejected_without_a_config_class(
    path: str, reason: str, untrusted_folder: Path
) -> None:
    (untrusted_folder / "my.yaml").write_text(f"model:\n  _component_: {path}\n")
    with only_trusting(Trust()), pytest.raises(ConfigError) as caught:
        config_layers("my.yaml", None).build()
    assert str(caught.value.mistakes[0]).startswith("my.yaml:2: model: ")
    assert reason in str(caught.value)
    assert not (untrusted_folder / "trace").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(("path", "reason"), REJECTED.items())
def test_dangerous_dotpath_is_rejected_in_a_typed_field(
    path: str, reason: str, untrusted_folder: Path
) -> None:
    (untrusted_folder / "my.yaml").write_text(f"output_dir: x\noptimizer:\n  _component_: {path}\n")
    with only_trusting(Trust()), pytest.raises(ConfigError) as caught:
        sample.main.layers("my.yaml").build()
    assert any(str(m).startswith("my.yaml:3: optimizer: ") for m in caught.value.mistakes)
    assert not (untrusted_folder / "trace").exists()


@pytest.mark.parametrize("path", REJECTED)
def test_dangerous_dotpath_is_rejected_by_instantiate(path: str, untrusted_folder: Path) -> None:
    with only_trusting(Trust()), pytest.raises(InstantiationError):
        instantiate({"_component_": path})
    assert not (untrusted_folder / "trace").exists()


def test_components_of_torch_and_torchtune_are_accepted_without_a_config_class(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "a: {_component_: torch.optim.AdamW, lr: 0.1}\n"
        "b: {_component_: torch.nn.CrossEntropyLoss}\n"
        "c: {_component_: torchtune.datasets.AlpacaDataset, train_on_input: false}\n"
        "d: {_component_: torchtune.models.smollm2.smollm2_135m}\n"
        "e: {_component_: torchtune.models.llama2.llama2_tokenizer, path: x}\n"
        "f: {_component_: torchtune.utils.metric_logging.DiskLogger, log_dir: x}\n"
        "g: {_component_: torchtune.training.cosine_with_warmup, warmup_steps: 3}\n"
        "h: {_component_: torchtune.tokenizers.TiktokenTokenizer, path: x}\n"
        "i: {_component_: torchtune.tokenizers.TekkenTokenizer, path: x}\n"
        "j: {_component_: torchtune.tokenizers.SentencePieceTokenizer, path: x}\n"
    )
    with only_trusting(Trust()):
        built = config_layers(str(tmp_path / "my.yaml"), None).build()
    assert isinstance(built, Node)
    assert built.c.train_on_input is False


def test_package_is_trusted_after_allow() -> None:
    with only_trusting(Trust()):
        with pytest.raises(ConfigError, match="add --allow tests"):
            sample.main.layers(None, ["output_dir=x"]).build()
        allow("tests")
        assert sample.main.layers(None, ["output_dir=x"]).build().output_dir == "x"


def test_environment_variable_allows_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_ALLOW", "other,tests")
    with only_trusting(Trust()):
        assert sample.main.layers(None, ["output_dir=x"]).build().output_dir == "x"


def test_folder_of_a_python_config_is_trusted_and_last_in_sys_path(tmp_path: Path) -> None:
    (tmp_path / "my_configs_here.py").write_text(
        "from tests.config.sample import Config, Optimizer\n"
        "from torchtune.config import lazy\n"
        "class Mine(Optimizer):\n"
        "    def __init__(self, params, lr: float = 1.0): ...\n"
        "def mine() -> Config:\n"
        "    return Config(output_dir='x', optimizer=lazy(Mine, lr=2.0))\n"
    )
    layers = sample.main.layers(f"{tmp_path / 'my_configs_here.py'}:mine")
    assert layers.tree["optimizer"] == {"_component_": "my_configs_here.Mine", "lr": 2.0}
    assert layers.build().optimizer.keywords == {"lr": 2.0}
    assert sys.path[-1] == str(tmp_path)


def test_trusted_folder_does_not_include_a_virtual_environment(tmp_path: Path) -> None:
    site = tmp_path / ".venv/lib/site-packages/third"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("def run(): pass\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/__init__.py").write_text("def run(): pass\n")
    sys.path.append(str(site.parent))
    try:
        with only_trusting(Trust()):
            trust_folder_of(tmp_path / "recipe.py")
            assert path_rejection("third.run") == (
                "'third' is not trusted",
                "if you trust its code, add --allow third",
            )
            assert path_rejection("own_package.run") is None
            assert path_rejection("torch.hub.load") is not None
            assert path_rejection("os.system") is not None
    finally:
        sys.path.remove(str(site.parent))


def test_untyped_field_rejects_functions_from_files_not_named_by_the_user(
    tmp_path: Path,
) -> None:
    (tmp_path / "named_by_user.py").write_text("def make(): return 'made'\n")
    (tmp_path / "not_named_by_user.py").write_text("def make(): raise SystemExit('ran')\n")
    with only_trusting(Trust()):
        trust_folder_of(tmp_path / "named_by_user.py")
        assert instantiate({"_component_": "named_by_user.make"}) == "made"
        with pytest.raises(InstantiationError, match="a field without a type accepts only"):
            instantiate({"_component_": "not_named_by_user.make"})


def test_user_recipe_is_rejected_as_a_component(tmp_path: Path) -> None:
    (tmp_path / "recipe_of_user.py").write_text(
        "from torchtune import config\n@config.parse\ndef main(cfg): raise SystemExit('ran')\n"
    )
    with only_trusting(Trust()):
        trust_folder_of(tmp_path / "recipe_of_user.py")
        with pytest.raises(InstantiationError, match="a recipe cannot be used as a component"):
            instantiate({"_component_": "recipe_of_user.main", "cfg": {}})


def test_main_module_of_a_package_is_rejected() -> None:
    with pytest.raises(InstantiationError, match="is private"):
        instantiate({"_component_": "torchtune.models.__main__.run"})


def test_recipe_without_a_class_runs_with_a_yaml_config(tmp_path: Path) -> None:
    ran: list[Node] = []

    @parse
    def main(cfg) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 -- the case under test
        ran.append(cfg)

    (tmp_path / "my.yaml").write_text(
        "seed: 3\nlogger: {_component_: torchtune.utils.metric_logging.StdoutLogger}\n"
    )
    main.run(main.layers(str(tmp_path / "my.yaml"), ["seed=4"]))
    assert ran[0].seed == 4
    assert type(instantiate(ran[0].logger)).__name__ == "StdoutLogger"
