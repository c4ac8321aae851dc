"""Read the chat templates that are stored with a tokenizer, and select one according to the options.

They are stored as in transformers: in chat_template.jinja and additional_chat_templates/NAME.jinja, or otherwise under
`chat_template` in tokenizer_config.json, as one template or a list of named templates. Some older folders have a
chat_template.json, written for image processors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune._similar_paths import did_you_mean_path
from torchtune.data import ChatTemplate
from torchtune.files import read_json, unexpected_value
from torchtune.tokenizers._options import TokenizerOptions

CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
LEGACY_CHAT_TEMPLATE = "chat_template.json"
ADDITIONAL_CHAT_TEMPLATES = "additional_chat_templates"

_KEY = "chat_template"
_DEFAULT, _TOOLS = "default", "tool_use"


@frozen
class StoredTemplate:
    """A template and its file."""

    source: str
    file: Path


def stored_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, StoredTemplate]:
    """Read the templates of a folder, by name; an unnamed template is "default".

    Args:
        folder: The tokenizer's folder.
        config: Contents of tokenizer_config.json.

    Raises:
        ValueError: A file is damaged.
    """
    templates = _in_files(folder) or _in_config(folder / CONFIG, config)
    legacy = folder / LEGACY_CHAT_TEMPLATE
    return templates or (_in_config(legacy, read_json(legacy)) if legacy.is_file() else {})


def read_chat_template(
    folder: Path, config: Mapping[str, Any], special_tokens: Mapping[str, str], options: TokenizerOptions
) -> ChatTemplate | None:
    """Read the chat template that the options select; conversations with tools use "tool_use" if it is stored.

    Args:
        folder: The tokenizer's folder.
        config: Contents of tokenizer_config.json.
        special_tokens: Texts of the special tokens by name, such as "bos_token".
        options: Options that `check_options` accepts.

    Raises:
        ValueError: A template is not valid, or an option has no effect.
    """
    stored = stored_templates(folder, config)
    selected = _selected(folder, stored, options)
    if selected is None:
        _check_unused(folder, stored, options)
        return None
    for_tools = stored.get(_TOOLS) if options.get("chat_template") is None else None
    if for_tools is not None:
        _template(for_tools)
    arguments = options.get("template_arguments") or {}
    others = {name: text for name, text in special_tokens.items() if name not in arguments}
    return _template(
        selected,
        bos_token=others.pop("bos_token", ""),
        eos_token=others.pop("eos_token", ""),
        tool_source=for_tools and for_tools.source,
        special_tokens=others,
        arguments=arguments,
        date=options.get("date"),
    )


def _template(stored: StoredTemplate, **fields: Any) -> ChatTemplate:
    try:
        return ChatTemplate(stored.source, **fields)
    except ValueError as error:
        raise ValueError(f"{stored.file}: {error}") from error


def _selected(
    folder: Path, stored: Mapping[str, StoredTemplate], options: TokenizerOptions
) -> StoredTemplate | None:
    name = options.get("chat_template")
    if name is None:
        return stored.get(_DEFAULT)
    if str(name) in stored:
        return stored[str(name)]
    file = Path(name).expanduser()
    if not file.is_file():
        message = f"chat_template: {name!r} is neither a file nor a template stored in {folder}{_stored_names(stored)}"
        suggestion = did_you_mean_path(file, Path.is_file)
        raise ValueError(f"{message}; {suggestion}" if suggestion else message)
    return StoredTemplate(_read_text(file, "save it as UTF-8"), file)


def _check_unused(folder: Path, stored: Mapping[str, StoredTemplate], options: TokenizerOptions) -> None:
    unused = [name for name in ("template_arguments", "date") if options.get(name)]
    if unused:
        missing = "no default chat template" if stored else "no chat template"
        raise ValueError(
            f"{unused[0]} has no effect, because {folder} has {missing}{_stored_names(stored)}; set chat_template, or"
            f" remove {unused[0]}"
        )


def _stored_names(stored: Mapping[str, StoredTemplate]) -> str:
    return f" (stored: {', '.join(sorted(stored))})" if stored else ""


def _in_files(folder: Path) -> dict[str, StoredTemplate]:
    files = {_DEFAULT: folder / CHAT_TEMPLATE}
    files |= {file.stem: file for file in sorted((folder / ADDITIONAL_CHAT_TEMPLATES).glob("*.jinja"))}
    return {
        name: StoredTemplate(_read_text(file, "download it again"), file)
        for name, file in files.items()
        if file.is_file()
    }


def _in_config(path: Path, values: Mapping[str, Any]) -> dict[str, StoredTemplate]:
    entries = values.get(_KEY)
    if entries is None:
        return {}
    if isinstance(entries, str):
        return {_DEFAULT: StoredTemplate(entries, path)}
    entries = [entries] if _is_named(entries) else entries
    if not isinstance(entries, list) or not all(map(_is_named, entries)):
        raise unexpected_value(
            path, _KEY, entries, "a template, or a list of objects with a name and a template"
        )
    return {entry["name"]: StoredTemplate(entry["template"], path) for entry in entries}


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _read_text(file: Path, how_to_fix: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}); {how_to_fix}") from error
