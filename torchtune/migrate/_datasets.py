"""The original torchtune's dataset builders as datasets of ours, argument by argument.

Their names, arguments and defaults are those of its documentation:
https://docs.pytorch.org/torchtune/stable/api_ref_datasets.html.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field, frozen

from torchtune.migrate._tokenizers import why_none

Tree = dict[str, Any]


@frozen
class _Builder:
    """A builder of the original's."""

    component: str
    """The dataset of ours with the same rows."""
    rows: Tree = field(factory=dict)
    """What it reads where no source is given, as arguments of ours."""
    columns: Mapping[str, str] = field(factory=dict)
    """The columns that it reads unless `column_map` says others, by its own names."""


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
"""Sources of `datasets.load_dataset` that are types of files."""
_CHATS: Final = ("ChatDataset", "SlimOrcaDataset")
_STYLES: Final = (None, "openai", "sharegpt")


@define
class ImportedDataset:
    """A dataset of the original's as one of ours."""

    new: Tree | None = None
    """The component; None where there is none."""
    lost: dict[str, str] = field(factory=dict)
    """Arguments that have no counterpart, with the reason; that of the dataset as a whole is at `""`."""
    changed: str = ""
    """How the component differs, if it does."""
    packing: Tree | None = None
    """The section `packing`; None where every example has a row of its own."""


def import_dataset(value: Any, max_seq_len: int | None, truncate: str | None) -> ImportedDataset:
    """Import a dataset, or a list of datasets, which the original concatenates.

    Args:
        value: The component of the original's, or a list of them.
        max_seq_len: What the original's tokenizer cuts examples to.
        truncate: At which end.
    """
    if not isinstance(value, list):
        return _one(value, max_seq_len, truncate)
    whole = ImportedDataset()
    parts = [_one(part, max_seq_len, truncate) for part in value]
    for i, part in enumerate(parts):
        whole.lost |= {f"{i}.{key}".rstrip("."): why for key, why in part.lost.items()}
        whole.changed = whole.changed or part.changed
        whole.packing = part.packing if whole.packing is None else whole.packing
    made = [part.new for part in parts if part.new is not None]
    if made:
        whole.new = {"_component_": "torchtune.datasets.ConcatDataset", "datasets": made}
    return whole


def _one(value: Any, max_seq_len: int | None, truncate: str | None) -> ImportedDataset:
    rest = dict(value) if isinstance(value, Mapping) else {}
    path = str(rest.pop("_component_", ""))
    builder = _BUILDERS.get(path.removeprefix("torchtune.datasets."))
    if builder is None:
        return ImportedDataset(lost={"": why_none(path or "a dataset without _component_", "dataset")})
    made = ImportedDataset()
    is_packed = bool(rest.pop("packed", False))
    new: Tree = {"_component_": f"torchtune.datasets.{builder.component}", **_rows(rest, builder)}
    if builder.component == "TextCompletionDataset":
        new |= _of_texts(rest, packed=is_packed)
    else:
        new |= _of_prompts(rest, builder, made)
    length = rest.pop("max_seq_len", None) or max_seq_len
    if length is not None:
        new["max_seq_len"] = length
    if is_packed:
        made.packing = {} if length is None else {"length": length}
    if truncate == "left":
        new["truncate"] = truncate
    made.new = new
    made.lost |= {
        name: f"{item!r} has no counterpart" for name, item in rest.items() if item not in (None, False)
    }
    return made


def _rows(rest: Tree, builder: _Builder) -> Tree:
    """Return where the rows come from."""
    source, files = rest.pop("source", None), rest.pop("data_files", None)
    if source in _FILE_TYPES and isinstance(files, str):
        source, files = files, None
    made = dict(builder.rows)
    if source is not None:
        made = {"source": source} | {name: made[name] for name in ("column",) if name in made}
    given = {"name": rest.pop("subset", None), "data_files": files}
    given |= {name: rest.pop(name) for name in ("name", "revision", "data_dir") if name in rest}
    options = made.pop("load_options", {}) | {n: value for n, value in given.items() if value is not None}
    if options:
        made["load_options"] = options
    if "split" in rest:
        made["split"] = rest.pop("split")
    return made


def _of_texts(rest: Tree, *, packed: bool) -> Tree:
    """Return the arguments of a dataset of plain texts, whose longer ones the original cut unless it packed them."""
    made = {name: rest.pop(name) for name in ("column", "add_eos") if rest.get(name) is not None}
    splits = rest.pop("split_across_pack", True)
    return made if packed and splits else {**made, "truncate": "right"}


def _of_prompts(rest: Tree, builder: _Builder, made: ImportedDataset) -> Tree:
    """Return the arguments of a dataset of prompts and answers."""
    template = str(rest.pop("template", None) or rest.pop("prompt_template", None) or "")
    is_alpaca = builder.component == "AlpacaDataset"
    lays_out_as_alpaca = is_alpaca or template.endswith(("AlpacaInstructTemplate", "alpaca"))
    new = _columns(rest, builder if not lays_out_as_alpaca else _Builder(builder.component), made)
    if not lays_out_as_alpaca:
        made.changed = "prompts are laid out by the chat template in the tokenizer's folder"
        if template:
            made.lost["template"] = f"{template} has no counterpart; write one as the dataset's template"
    elif not is_alpaca:
        new["template"] = "alpaca"
    if builder.component in _CHATS:
        new |= _of_conversations(rest, made)
    elif "train_on_input" in rest:
        new["train_on_input"] = rest.pop("train_on_input")
    if not is_alpaca and rest.get("new_system_prompt") is not None:
        new["system"] = rest.pop("new_system_prompt")
    return new


def _columns(rest: Tree, builder: _Builder, made: ImportedDataset) -> Tree:
    """Return the argument `columns`, where the names of the rows' columns are not those that ours reads."""
    columns = rest.pop("column_map", None)
    if columns is not None and (not isinstance(columns, Mapping) or builder.component in _CHATS):
        made.lost["column_map"] = f"{columns!r} has no counterpart"
        columns = None
    if builder.columns:
        named = {**builder.columns, **(columns or {})}
        return {"columns": {"instruction": named["input"], "output": named["output"]}}
    return {"columns": columns} if columns else {}


def _of_conversations(rest: Tree, made: ImportedDataset) -> Tree:
    """Return the arguments of a dataset of conversations."""
    new: Tree = {}
    if rest.get("conversation_column") is not None:
        new["column"] = rest.pop("conversation_column")
    style = rest.pop("conversation_style", None)
    if style not in _STYLES:
        made.lost["conversation_style"] = f"{style!r} is not read; turns are OpenAI's or ShareGPT's"
    if rest.pop("train_on_input", False):
        new["train_on"] = "everything"
    return new
