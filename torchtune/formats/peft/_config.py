"""The adapter_config.json of PEFT's folders."""

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
"""What LoRA leaves off; other values change what the tensors mean, or add some."""

_OFF = {
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
"""The same of newer releases of PEFT, whose older ones do not know it."""

_READ = frozenset(
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
"""What is read and checked."""

_WITHOUT_EFFECT = frozenset(
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
"""What does not change what trained tensors mean: their names tell the layers, and `init_lora_weights` whether the
base was changed at the start. The keys of `LoraConfig` in PEFT 0.21."""

_CHANGE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Ways to start that take something off the weights of the base, which PEFT does again when it loads them."""

KIND_SETTINGS = tuple(dict.fromkeys(key for kind in ADAPTERS.values() for key in kind.peft_settings))
"""Keys that tell the kinds of adapters."""

_RANK, _ALPHA = "a whole number above 0", "a number above 0"
_PATTERNS = {"rank_pattern": _RANK, "alpha_pattern": _ALPHA}


def _no_adapter(folder: Path) -> str:
    """Return why a folder is no adapter's, and which one may be."""
    if not folder.is_dir():
        hint = missing_model_hint(folder) or "tune download fetches one"
        return f"there is no folder {folder}; a PEFT adapter's is expected; {hint}"
    of_a_run = [path for path in (folder / "final", folder / "best") if (path / ADAPTER_CONFIG).is_file()]
    if of_a_run:
        return f"{folder} is a run's folder; name the adapter in it, {' or '.join(map(str, of_a_run))}"
    return f"no {ADAPTER_CONFIG} in {folder}; a PEFT adapter folder is expected"


def read_peft_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json, refusing what would change the result and is not supported.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or uses more of PEFT than LoRA, rsLoRA and DoRA.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(_no_adapter(folder))
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {config.get('peft_type')!r}, only 'LORA' is supported")
    for key, value in _OFF.items():
        if (config.get(key) or value) != value:
            raise ValueError(f"{path}: {key} is {reprlib.repr(config[key])}, only {value!r} is supported")
    _check_known(path, config)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_BASE):
        raise ValueError(
            f"{path}: init_lora_weights is {start!r}, with which the adapter belongs to a changed base; save it with"
            " PEFT's path_initial_model_for_weight_conversion"
        )
    _check_values(path, config)
    return config


def of_pattern(config: Mapping[str, Any], key: str, layer: str, otherwise: Any) -> Any:
    """Return a layer's own rank or alpha, which PEFT looks up by the end of its name."""
    patterns: Mapping[str, Any] = config.get(key) or {}
    return next((v for k, v in patterns.items() if re.fullmatch(_ending(k), layer)), otherwise)


def kind_of(config: Mapping[str, Any]) -> AdapterKind:
    """Return the kind of a folder's adapters: of those whose settings it has, the one with the most."""
    kinds = [
        name
        for name, kind in ADAPTERS.items()
        if kind.peft_tensors
        and all(bool(config.get(key)) == value for key, value in kind.peft_settings.items())
    ]
    return max(kinds, key=lambda name: len(ADAPTERS[name].peft_settings))


def _ending(pattern: str) -> str:
    return rf"(.*\.)?({pattern})"


def _check_known(path: Path, config: Mapping[str, Any]) -> None:
    """Reject keys that newer releases of PEFT, or other libraries, may add, unless they are empty or off."""
    known = {*_OFF, *_READ, *_WITHOUT_EFFECT, *KIND_SETTINGS}
    for key in sorted(config.keys() - known):
        if config[key]:
            raise ValueError(
                f"{path}: {key} is {reprlib.repr(config[key])}, and what it means is not known, so that it is supported"
                " only if it is null or false; merge the adapter by the library that wrote it"
            )


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    _expect(path, "r", config.get("r"), _RANK)
    _expect(path, "lora_alpha", config.get("lora_alpha"), _ALPHA)
    dropout = config.get("lora_dropout", 0.0)
    if dropout != 0:
        _expect(path, "lora_dropout", dropout, "a number from 0 to 1", below=1)
    modules = config.get("modules_to_save")
    if not (modules is None or (isinstance(modules, list) and all(isinstance(m, str) for m in modules))):
        raise unexpected_value(path, "modules_to_save", modules, "a list of names of modules, or null")
    for name in ("use_rslora", "ensure_weight_tying", *KIND_SETTINGS):
        if not isinstance(config.get(name), bool | None):
            raise unexpected_value(path, name, config[name], "true or false")
    for name, what in _PATTERNS.items():
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise unexpected_value(path, name, patterns, "an object of numbers by layers")
        for pattern, value in patterns.items():
            _expect(path, f"{name} of {pattern!r}", value, what)
            try:
                re.compile(_ending(pattern))
            except re.error as error:
                raise ValueError(
                    f"{path}: {name} has {pattern!r}, which is no regular expression ({error}); fetch it again"
                ) from error
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise unexpected_value(path, "base_model_name_or_path", base, "a folder, or the hub's name of a model")


def _expect(path: Path, name: str, value: Any, what: str, below: float = torch.finfo().max) -> None:
    """Refuse what is no number, or not one of those that make sense."""
    kinds = {int} if what == _RANK else {int, float}
    if type(value) not in kinds or not 0 < value < below:
        raise unexpected_value(path, name, value, what)
