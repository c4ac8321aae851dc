"""The snippets in the config specification work or fail as specified."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune import config
from torchtune.config import InstantiationError, Node, parse
from torchtune.runs import config_layers
from torchtune.utils.metric_logging import DiskLogger

YAML = """\
seed: null
shuffle: True
device: cuda
dtype: fp32
enable_fsdp: True
tokenizer:
  _component_: torchtune.models.llama2.llama2_tokenizer
  path: tokenizer.model
dataset:
  _component_: torchtune.datasets.AlpacaDataset
  train_on_input: False
output_dir: /tmp/alpaca-llama2-finetune
metric_logger:
  _component_: torchtune.utils.metric_logging.DiskLogger
  log_dir: ${output_dir}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "specification.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def cfg(file: Path) -> Any:
    """Return the specification's config, as passed to a recipe without a config class."""

    @parse
    def main(cfg) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 -- the specification's recipes are not annotated
        del cfg

    return main.layers(str(file)).build()


def test_fields_are_attributes_with_the_types_of_the_yaml_values(cfg: Any) -> None:
    assert (cfg.seed, cfg.shuffle, cfg.device, cfg.dtype, cfg.enable_fsdp) == (
        None,
        True,
        "cuda",
        "fp32",
        True,
    )


def test_error_for_a_dataset_without_a_tokenizer_names_the_missing_argument(cfg: Any) -> None:
    with pytest.raises(InstantiationError, match=r"torchtune\.datasets\.AlpacaDataset requires 'tokenizer'"):
        config.instantiate(cfg.dataset)


def test_instantiate_arguments_are_added_to_the_config_arguments(
    cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: dict[str, Any] = {}

    def record_arguments(self: object, tokenizer: Any, **kwargs: Any) -> None:
        received.update(tokenizer=tokenizer, **kwargs)

    import torchtune.datasets

    monkeypatch.setattr(torchtune.datasets.AlpacaDataset, "__init__", record_arguments)
    tokenizer = ByteTokenizer()
    config.instantiate(cfg.dataset, tokenizer, use_clean=True)
    assert received == {"tokenizer": tokenizer, "train_on_input": False, "use_clean": True}


def test_instantiate_resolves_interpolations(file: Path, tmp_path: Path) -> None:
    file.write_text(YAML.replace("/tmp/alpaca-llama2-finetune", str(tmp_path / "logs")))
    unresolved = Node(config_layers(str(file), None).tree)
    assert unresolved.metric_logger.log_dir == "${output_dir}"
    logger = config.instantiate(unresolved.metric_logger)
    assert isinstance(logger, DiskLogger)
    logger.log("loss", 1.0, step=1)
    logger.close()
    assert list((tmp_path / "logs").iterdir())


def test_error_for_private_component_path_suggests_public_path() -> None:
    with pytest.raises(InstantiationError, match=r"is private; use torchtune\.datasets\.AlpacaDataset"):
        config.instantiate({"_component_": "torchtune.datasets._alpaca.AlpacaDataset"})


def test_names_are_defined_in_the_specified_modules() -> None:
    from recipes import _CONFIG_LISTS, _RECIPE_LIST

    assert config.instantiate.__module__ == "torchtune.config._instantiate"
    assert config.parse.__module__ == "torchtune.runs._recipe"
    assert _RECIPE_LIST[:3] == ["full_finetune", "lora_finetune", "alpaca_generate"]
    assert "alpaca_llama2_full_finetune" in _CONFIG_LISTS["full_finetune"]
    assert "alpaca_llama2_lora_finetune" in _CONFIG_LISTS["lora_finetune"]
