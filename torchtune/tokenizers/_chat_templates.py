"""The chat templates that are stored with a tokenizer, and the one that its options choose.

They are stored as transformers stores them: in chat_template.jinja and additional_chat_templates/NAME.jinja, or else
under `chat_template` in tokenizer_config.json, alone or as a list of named ones. Some older folders have a
chat_template.json, which processors of images read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune._near_paths import did_you_mean_path
from torchtune.data import ChatTemplate
from torchtune.files import read_json, unexpected
from torchtune.tokenizers._options import TokenizerOptions

CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
OLDER_CHAT_TEMPLATE = "chat_template.json"
MORE_CHAT_TEMPLATES = "additional_chat_templates"

_KEY = "chat_template"
_DEFAULT, _TOOLS = "default", "tool_use"


@frozen
class StoredTemplate:
    """A template and the file that holds it."""

    source: str
    file: Path


def stored_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, StoredTemplate]:
    """Read the templates of a folder by name; one without a name is "default".

    Args:
        folder: Holds the files.
        config: What tokenizer_config.json says.

    Raises:
        ValueError: a file is damaged.
    """
    found = _in_files(folder) or _in_config(folder / CONFIG, config)
    older = folder / OLDER_CHAT_TEMPLATE
    return found or (_in_config(older, read_json(older)) if older.is_file() else {})


def read_chat_template(
    folder: Path, config: Mapping[str, Any], special_tokens: Mapping[str, str], options: TokenizerOptions
) -> ChatTemplate | None:
    """Read the chat template that the options choose; conversations with tools use "tool_use" if there is one.

    Args:
        folder: Holds the tokenizer.
        config: What tokenizer_config.json says.
        special_tokens: The texts of the special tokens by their names, such as "bos_token".
        options: Checked.

    Raises:
        ValueError: a template is not valid, or an option has no effect.
    """
    stored = stored_templates(folder, config)
    chosen = _chosen(folder, stored, options)
    if chosen is None:
        _refuse_unused(folder, stored, options)
        return None
    for_tools = stored.get(_TOOLS) if options.get("chat_template") is None else None
    if for_tools is not None:
        _template(for_tools)
    arguments = options.get("template_arguments") or {}
    others = {name: text for name, text in special_tokens.items() if name not in arguments}
    return _template(
        chosen,
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


def _chosen(
    folder: Path, stored: Mapping[str, StoredTemplate], options: TokenizerOptions
) -> StoredTemplate | None:
    name = options.get("chat_template")
    if name is None:
        return stored.get(_DEFAULT)
    if str(name) in stored:
        return stored[str(name)]
    file = Path(name).expanduser()
    if not file.is_file():
        message = (
            f"chat_template: {name!r} is neither a file nor a template stored in {folder}{_names(stored)}"
        )
        near = did_you_mean_path(file, Path.is_file)
        raise ValueError(f"{message}; {near}" if near else message)
    return StoredTemplate(_read_text(file, "save it as UTF-8"), file)


def _refuse_unused(folder: Path, stored: Mapping[str, StoredTemplate], options: TokenizerOptions) -> None:
    unused = [name for name in ("template_arguments", "date") if options.get(name)]
    if unused:
        lacking = "no default chat template" if stored else "no chat template"
        raise ValueError(
            f"{unused[0]}: without effect, since {folder} has {lacking}{_names(stored)}; set chat_template, or leave"
            f" {unused[0]} out"
        )


def _names(stored: Mapping[str, StoredTemplate]) -> str:
    return f" (stored: {', '.join(sorted(stored))})" if stored else ""


def _in_files(folder: Path) -> dict[str, StoredTemplate]:
    files = {_DEFAULT: folder / CHAT_TEMPLATE}
    files |= {file.stem: file for file in sorted((folder / MORE_CHAT_TEMPLATES).glob("*.jinja"))}
    return {
        name: StoredTemplate(_read_text(file, "fetch it again"), file)
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
        raise unexpected(path, _KEY, entries, "a template, or a list of objects with a name and a template,")
    return {entry["name"]: StoredTemplate(entry["template"], path) for entry in entries}


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _read_text(file: Path, how_to_fix: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8 ({error}); {how_to_fix}") from error
