"""Convert the original torchtune's dataset builders, argument by argument.

Names, arguments and defaults are from its documentation:
https://docs.pytorch.org/torchtune/stable/api_ref_datasets.html.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field, frozen

from torchtune.migrate._tokenizers import no_equivalent

Tree = dict[str, Any]


@frozen
class _Builder:
    """The equivalent of one of the original torchtune's dataset builders."""

    component: str
    """The equivalent dataset class in torchtune."""
    rows: Tree = field(factory=dict)
    """Arguments that make the dataset class read the builder's default rows."""
    columns: Mapping[str, str] = field(factory=dict)
    """The builder's default columns, by the keys of `column_map`."""


_INPUT_OUTPUT: Final = {"input": "input", "output": "output"}
_BUILDERS: Final = {
    "alpaca_dataset": _Builder("AlpacaDataset"),
    "alpaca_cleaned_dataset": _Builder("AlpacaDataset", {"use_clean": True}),
    "instruct_dataset": _Builder("InstructDataset", columns=_INPUT_OUTPUT),
    "grammar_dataset": _Builder("InstructDataset", {"source": "liweili/c4_200m"}, _INPUT_OUTPUT),
    "samsum_dataset": _Builder(
        "InstructDataset", {"source": "Samsung/samsum"}, {"input": "dialogue", "output": "summary"}
    ),
    "chat_dataset": _Builder("ChatDataset"),
    "slimorca_dataset": _Builder("SlimOrcaDataset"),
    "text_completion_dataset": _Builder("TextCompletionDataset"),
    "cnn_dailymail_articles_dataset": _Builder(
        "TextCompletionDataset",
        {"source": "ccdv/cnn_dailymail", "load_options": {"name": "3.0.0"}, "column": "article"},
    ),
    "wikitext_dataset": _Builder(
        "TextCompletionDataset",
        {
            "source": "EleutherAI/wikitext_document_level",
            "load_options": {"name": "wikitext-103-v1"},
            "column": "page",
        },
    ),
}

_FILE_TYPES: Final = ("json", "jsonl", "csv", "text", "parquet", "arrow")
"""File types that `datasets.load_dataset` accepts as a source."""
_CHATS: Final = ("ChatDataset", "SlimOrcaDataset")
_STYLES: Final = (None, "openai", "sharegpt")


@define
class ImportedDataset:
    """The result of converting a dataset."""

    new: Tree | None = None
    """The new component; None if there is no equivalent."""
    unmapped: dict[str, str] = field(factory=dict)
    """Arguments without an equivalent, with the reason; the key `""` refers to the whole dataset."""
    changed: str = ""
    """How the behavior differs from the original torchtune; empty if it is the same."""
    packing: Tree | None = None
    """The section `packing`; None without packing."""


def import_dataset(value: Any, max_seq_len: int | None, truncate: str | None) -> ImportedDataset:
    """Convert a dataset, or a list of datasets, which the original torchtune concatenates.

    Args:
        value: A component of the original torchtune, or a list of components.
        max_seq_len: The length (tokens) to which the tokenizer of the original torchtune truncates examples.
        truncate: The end at which the tokenizer of the original torchtune truncates examples.
    """
    if not isinstance(value, list):
        return _import_one(value, max_seq_len, truncate)
    concatenated = ImportedDataset()
    parts = [_import_one(part, max_seq_len, truncate) for part in value]
    for i, part in enumerate(parts):
        concatenated.unmapped |= {f"{i}.{key}".rstrip("."): reason for key, reason in part.unmapped.items()}
        concatenated.changed = concatenated.changed or part.changed
        concatenated.packing = part.packing if concatenated.packing is None else concatenated.packing
    datasets = [part.new for part in parts if part.new is not None]
    if datasets:
        concatenated.new = {"_component_": "torchtune.datasets.ConcatDataset", "datasets": datasets}
    return concatenated


def _import_one(value: Any, max_seq_len: int | None, truncate: str | None) -> ImportedDataset:
    remaining = dict(value) if isinstance(value, Mapping) else {}
    path = str(remaining.pop("_component_", ""))
    builder = _BUILDERS.get(path.removeprefix("torchtune.datasets."))
    if builder is None:
        return ImportedDataset(
            unmapped={"": no_equivalent(path or "a dataset without _component_", "dataset")}
        )
    imported = ImportedDataset()
    is_packed = bool(remaining.pop("packed", False))
    new: Tree = {"_component_": f"torchtune.datasets.{builder.component}", **_rows(remaining, builder)}
    if builder.component == "TextCompletionDataset":
        new |= _text_arguments(remaining, packed=is_packed)
    else:
        new |= _prompt_arguments(remaining, builder, imported)
    length = remaining.pop("max_seq_len", None) or max_seq_len
    if length is not None:
        new["max_seq_len"] = length
    if is_packed:
        imported.packing = {} if length is None else {"length": length}
    if truncate == "left":
        new["truncate"] = truncate
    imported.new = new
    imported.unmapped |= {
        name: f"{item!r} has no equivalent" for name, item in remaining.items() if item not in (None, False)
    }
    return imported


def _rows(remaining: Tree, builder: _Builder) -> Tree:
    """Return the arguments that select the rows."""
    source, files = remaining.pop("source", None), remaining.pop("data_files", None)
    if source in _FILE_TYPES and isinstance(files, str):
        source, files = files, None
    arguments = dict(builder.rows)
    if source is not None:
        arguments = {"source": source} | {name: arguments[name] for name in ("column",) if name in arguments}
    requested_options = {"name": remaining.pop("subset", None), "data_files": files}
    requested_options |= {
        name: remaining.pop(name) for name in ("name", "revision", "data_dir") if name in remaining
    }
    options = arguments.pop("load_options", {}) | {
        n: value for n, value in requested_options.items() if value is not None
    }
    if options:
        arguments["load_options"] = options
    if "split" in remaining:
        arguments["split"] = remaining.pop("split")
    return arguments


def _text_arguments(remaining: Tree, *, packed: bool) -> Tree:
    """Return the arguments of a plain-text dataset; the original torchtune truncates unpacked rows."""
    arguments = {
        name: remaining.pop(name) for name in ("column", "add_eos") if remaining.get(name) is not None
    }
    splits = remaining.pop("split_across_pack", True)
    return arguments if packed and splits else {**arguments, "truncate": "right"}


def _prompt_arguments(remaining: Tree, builder: _Builder, imported: ImportedDataset) -> Tree:
    """Return the arguments of a dataset of prompts and responses."""
    template = str(remaining.pop("template", None) or remaining.pop("prompt_template", None) or "")
    is_alpaca = builder.component == "AlpacaDataset"
    uses_alpaca_template = is_alpaca or template.endswith(("AlpacaInstructTemplate", "alpaca"))
    new = _columns(remaining, builder if not uses_alpaca_template else _Builder(builder.component), imported)
    if not uses_alpaca_template:
        imported.changed = "prompts are formatted with the chat template in the tokenizer's folder"
        if template:
            imported.unmapped["template"] = (
                f"{template} has no equivalent; set the dataset's template to your own prompt"
            )
    elif not is_alpaca:
        new["template"] = "alpaca"
    if builder.component in _CHATS:
        new |= _chat_arguments(remaining, imported)
    elif "train_on_input" in remaining:
        new["train_on_input"] = remaining.pop("train_on_input")
    if not is_alpaca and remaining.get("new_system_prompt") is not None:
        new["system"] = remaining.pop("new_system_prompt")
    return new


def _columns(remaining: Tree, builder: _Builder, imported: ImportedDataset) -> Tree:
    """Return the argument `columns`, if the rows' columns do not have the default names."""
    columns = remaining.pop("column_map", None)
    if columns is not None and (not isinstance(columns, Mapping) or builder.component in _CHATS):
        imported.unmapped["column_map"] = f"{columns!r} has no equivalent"
        columns = None
    if builder.columns:
        named = {**builder.columns, **(columns or {})}
        return {"columns": {"instruction": named["input"], "output": named["output"]}}
    return {"columns": columns} if columns else {}


def _chat_arguments(remaining: Tree, imported: ImportedDataset) -> Tree:
    """Return the arguments of a dataset of conversations."""
    new: Tree = {}
    if remaining.get("conversation_column") is not None:
        new["column"] = remaining.pop("conversation_column")
    style = remaining.pop("conversation_style", None)
    if style not in _STYLES:
        imported.unmapped["conversation_style"] = (
            f"{style!r} is not supported; supported styles are openai and sharegpt"
        )
    if remaining.pop("train_on_input", False):
        new["train_on"] = "everything"
    return new
