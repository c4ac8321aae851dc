"""Read a YAML config of the original torchtune, and reject other projects' configs and unsupported methods."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from torchtune.config import ConfigError, Mistake
from torchtune.config.model import Document, field_names, parse_yaml, read_yaml, resolved_tree
from torchtune.migrate._methods import unsupported_method
from torchtune.migrate._projects import explain_keys, project_of
from torchtune.runs import load_recipe

_KEPT_REFERENCES: Final = re.compile(r"\$\{(?:output_dir|seed|batch_size|epochs)\}")
"""References to fields that keep their names; other references are replaced with their values."""


def read_original(file: str, overrides: Iterable[str]) -> dict[str, Any]:
    """Return a config of the original torchtune with overrides applied, and references to renamed fields resolved.

    Args:
        file: The YAML file.
        overrides: Overrides with the original torchtune's field names, `key=value`.

    Raises:
        ConfigError: The file cannot be read, is not a config of the original torchtune, or is for a method that is not
            supported.
    """
    document = read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    tree = document.value
    _check_origin(document, file)
    for override in overrides:
        key, equals, text = override.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError.of_argument(override, "expected key=value")
        *parents, last = key.split(".")
        section: dict[str, Any] = tree
        for name in parents:
            value = section.get(name)
            section[name] = section = value if isinstance(value, dict) else {}
        section[last] = parse_yaml(text, override).value
    unsupported = unsupported_method(tree)
    if unsupported is not None:
        field, method = unsupported
        message = f"configs for {method} cannot be imported"
        advice = "the recipes support supervised fine-tuning and generation"
        raise ConfigError([_mistake_at(document, field, message, advice)], file)
    with_escaped_references = _map_text(
        tree, lambda text: _KEPT_REFERENCES.sub(lambda m: f"$${m[0][1:]}", text)
    )
    resolved: dict[str, Any] = _map_text(resolved_tree(with_escaped_references), str)
    return resolved


def _check_origin(document: Document, file: str) -> None:
    """Check that a config belongs to the original torchtune.

    Raises:
        ConfigError: The config belongs to another project, whose keys the error explains, or is of unknown origin.
    """
    tree = document.value if isinstance(document.value, dict) else {}
    project = project_of(tree)
    if project is not None:
        heading = (
            f"{file} is a {project} config, which cannot be converted automatically, because it lacks required"
            " settings; copy a config (tune cp smollm2_135m_lora my.yaml) and set these fields in the copy"
        )
        raise ConfigError(_explanations(document), file, heading)
    if "model_directory" in tree:
        message = "the file is already a torchtune config: it sets model_directory"
        raise ConfigError([Mistake.of_file(file, message)], file)
    if not {"model", "checkpointer"} & tree.keys():
        message = (
            "the file is not a config of the original torchtune: it has neither a model nor a checkpointer"
        )
        raise ConfigError([Mistake.of_file(file, message)], file)


def _explanations(document: Document) -> Sequence[Mistake]:
    """Return a mistake for each key that is set, with the key's equivalent."""
    config_class = load_recipe("lora_finetune").config_class
    assert config_class is not None
    explanations = explain_keys(document.value, field_names(config_class))
    return [_mistake_at(document, key, explanation) for key, explanation in explanations]


def _mistake_at(document: Document, key: str, message: str, suggestion: str = "") -> Mistake:
    location = document.location((key,))
    return Mistake("source", message, suggestion, (key,), location=location)


def _map_text(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        return {key: _map_text(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map_text(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree
