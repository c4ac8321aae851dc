"""The adapter_config.json of a PEFT adapter folder."""

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchtune.files import read_json, unexpected_value
from torchtune.modules import ADAPTERS, AdapterKind
from torchtune.runs import missing_model_hint

ADAPTER_CONFIG = "adapter_config.json"

PLAIN = {"bias": "none", "trainable_token_indices": None}
"""Settings that must be off: other values change the meaning of the tensors, or add tensors."""

_REQUIRED_SETTINGS = {
    **PLAIN,
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "velora_config": None,
    "megatron_config": None,
}
"""`PLAIN`, and similar settings of newer PEFT releases, which are not written because older releases reject them."""

_SUPPORTED_KEYS = frozenset(
    {
        "peft_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "lora_dropout",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "init_lora_weights",
        "modules_to_save",
        "ensure_weight_tying",
    }
)
"""Keys that are read and checked."""

_IGNORED_KEYS = frozenset(
    {
        "task_type",
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    }
)
"""Keys that are ignored, since they do not change the meaning of trained tensors: tensor names identify the layers,
and `init_lora_weights` indicates whether initialization changed the base. All are fields of PEFT 0.21's LoraConfig."""

_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initializations that change the base weights; PEFT repeats the change when it loads the adapter."""

KIND_SETTINGS = tuple(dict.fromkeys(key for kind in ADAPTERS.values() for key in kind.peft_settings))
"""Keys that identify the kind of an adapter."""

_RANK, _ALPHA = "a whole number above 0", "a number above 0"
_PATTERNS = {"rank_pattern": _RANK, "alpha_pattern": _ALPHA}


def _missing_adapter_message(folder: Path) -> str:
    """Return the error message for a folder that is not an adapter, with a suggestion."""
    if not folder.is_dir():
        hint = missing_model_hint(folder) or "download it with `tune download`"
        return f"folder {folder} does not exist; expected a PEFT adapter folder; {hint}"
    run_adapters = [path for path in (folder / "final", folder / "best") if (path / ADAPTER_CONFIG).is_file()]
    if run_adapters:
        return f"{folder} is a run's folder; pass the adapter in it, {' or '.join(map(str, run_adapters))}"
    return f"no {ADAPTER_CONFIG} in {folder}; expected a PEFT adapter folder"


def read_peft_config(folder: Path) -> dict[str, Any]:
    """Read and check adapter_config.json.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or has a setting that changes the result and is not supported. Only LoRA,
            rsLoRA and DoRA are supported.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(_missing_adapter_message(folder))
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {config.get('peft_type')!r}; only 'LORA' is supported")
    for key, value in _REQUIRED_SETTINGS.items():
        if (config.get(key) or value) != value:
            raise ValueError(f"{path}: {key} is {reprlib.repr(config[key])}; only {value!r} is supported")
    _check_keys(path, config)
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        raise ValueError(
            f"{path}: init_lora_weights is {init!r}, which changes the base weights; save the adapter for the original"
            " base, with PEFT's path_initial_model_for_weight_conversion"
        )
    _check_values(path, config)
    return config


def layer_setting(config: Mapping[str, Any], key: str, layer: str, default: Any) -> Any:
    """Return the rank or alpha of a layer; PEFT matches patterns against the end of the layer's name."""
    patterns: Mapping[str, Any] = config.get(key) or {}
    return next((v for k, v in patterns.items() if re.fullmatch(_suffix_pattern(k), layer)), default)


def adapter_kind(config: Mapping[str, Any]) -> AdapterKind:
    """Return the kind of a folder's adapters: the most specific kind whose settings match."""
    kinds = [
        name
        for name, kind in ADAPTERS.items()
        if kind.peft_tensors
        and all(bool(config.get(key)) == value for key, value in kind.peft_settings.items())
    ]
    return max(kinds, key=lambda name: len(ADAPTERS[name].peft_settings))


def _suffix_pattern(pattern: str) -> str:
    return rf"(.*\.)?({pattern})"


def _check_keys(path: Path, config: Mapping[str, Any]) -> None:
    """Reject unknown keys, from newer releases of PEFT or other libraries, unless they are empty or off."""
    known_keys = {*_REQUIRED_SETTINGS, *_SUPPORTED_KEYS, *_IGNORED_KEYS, *KIND_SETTINGS}
    for key in sorted(config.keys() - known_keys):
        if config[key]:
            raise ValueError(
                f"{path}: {key} is {reprlib.repr(config[key])}; the key is unknown, so only null or false is supported;"
                " merge the adapter with the library that wrote it"
            )


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    _check_number(path, "r", config.get("r"), _RANK)
    _check_number(path, "lora_alpha", config.get("lora_alpha"), _ALPHA)
    dropout = config.get("lora_dropout", 0.0)
    if dropout != 0:
        _check_number(path, "lora_dropout", dropout, "a number from 0 to 1", below=1)
    modules = config.get("modules_to_save")
    if not (modules is None or (isinstance(modules, list) and all(isinstance(m, str) for m in modules))):
        raise unexpected_value(path, "modules_to_save", modules, "a list of module names, or null")
    for name in ("use_rslora", "ensure_weight_tying", *KIND_SETTINGS):
        if not isinstance(config.get(name), bool | None):
            raise unexpected_value(path, name, config[name], "true or false")
    for name, expected in _PATTERNS.items():
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise unexpected_value(path, name, patterns, "an object that maps layers to numbers")
        for pattern, value in patterns.items():
            _check_number(path, f"{name} of {pattern!r}", value, expected)
            try:
                re.compile(_suffix_pattern(pattern))
            except re.error as error:
                raise ValueError(
                    f"{path}: {name} contains an invalid regular expression, {pattern!r} ({error});"
                    " download it again"
                ) from error
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise unexpected_value(
            path, "base_model_name_or_path", base, "a folder or the name of a model on the hub"
        )


def _check_number(path: Path, name: str, value: Any, expected: str, below: float = torch.finfo().max) -> None:
    """Raise ValueError unless a value is a number of the expected type above 0 and below a bound."""
    types = {int} if expected == _RANK else {int, float}
    if type(value) not in types or not 0 < value < below:
        raise unexpected_value(path, name, value, expected)
