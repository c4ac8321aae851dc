"""Reading a YAML of the original torchtune, and telling apart what is none or does something else."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from torchtune.config import ConfigError, Mistake
from torchtune.config.model import Document, field_names, parse_yaml, read_yaml, resolved_tree
from torchtune.migrate._methods import other_method
from torchtune.migrate._projects import explain_keys, project_of
from torchtune.runs import load_recipe

_STAYS: Final = re.compile(r"\$\{(?:output_dir|seed|batch_size|epochs)\}")
"""References to fields that do not move; others are replaced by what they lead to."""


def read_original(file: str, words: Iterable[str]) -> dict[str, Any]:
    """Return the original's config with overrides, its references resolved unless they lead to what stays.

    Args:
        file: The YAML.
        words: Overrides of the original's, `key=value`.

    Raises:
        ConfigError: It cannot be read, is no config of the original, or is for what no recipe of ours does.
    """
    document = read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    tree = document.value
    _check_origin(document, file)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError.of_word(word, "expected key=value")
        *above, last = key.split(".")
        holder: dict[str, Any] = tree
        for part in above:
            below = holder.get(part)
            holder[part] = holder = below if isinstance(below, dict) else {}
        holder[last] = parse_yaml(text, word).value
    other = other_method(tree)
    if other is not None:
        field, method = other
        message = f"this is {method}, which is not imported"
        advice = "our recipes do supervised fine-tuning and generation"
        raise ConfigError([_at(document, field, message, advice)], file)
    kept = _map_text(tree, lambda text: _STAYS.sub(lambda m: f"$${m[0][1:]}", text))
    resolved: dict[str, Any] = _map_text(resolved_tree(kept), str)
    return resolved


def _check_origin(document: Document, file: str) -> None:
    """Reject what is no config of the original torchtune.

    Raises:
        ConfigError: What it is instead, and for a config of another project what each of its keys is here.
    """
    tree = document.value if isinstance(document.value, dict) else {}
    project = project_of(tree)
    if project is not None:
        raise ConfigError(_answers(document, project), file)
    if "model_directory" in tree:
        message = "is a config of ours already: it has a model_directory"
        raise ConfigError([Mistake.of_file(file, message)], file)
    if not {"model", "checkpointer"} & tree.keys():
        message = "is no config of the original torchtune: it has neither a model nor a checkpointer"
        raise ConfigError([Mistake.of_file(file, message)], file)


def _answers(document: Document, project: str) -> Sequence[Mistake]:
    """Say of each key of another project's YAML what to write here."""
    config_class = load_recipe("lora_finetune").config_class
    assert config_class is not None
    message = f"is a config of {project}, which is not imported, since its keys do not say all that ours do"
    advice = "begin with a copy, tune cp smollm2_135m_lora my.yaml, and write in it:"
    answers = explain_keys(document.value, field_names(config_class))
    return [
        Mistake.of_file(document.name, message, advice),
        *(_at(document, key, answer) for key, answer in answers),
    ]


def _at(document: Document, key: str, message: str, suggestion: str = "") -> Mistake:
    location = document.location((key,))
    return Mistake("source", message, suggestion, (key,), location=location)


def _map_text(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        return {key: _map_text(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map_text(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree
