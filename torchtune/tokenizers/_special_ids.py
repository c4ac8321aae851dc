"""The ids at which texts begin and end, as config.json and generation_config.json repeat them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchtune.data import Tokenizer
from torchtune.files import read_json, unexpected

SpecialIds = dict[str, Any]
"""`bos_token_id`, `eos_token_id` and `pad_token_id`, each a number or null; the second may be a list."""

GENERATION_CONFIG = "generation_config.json"

_EOS = "eos_token_id"
_NAMES = ("bos_token_id", _EOS, "pad_token_id")


def read_ids(path: Path, names: Sequence[str] = _NAMES) -> SpecialIds:
    """Read the ids that a file has, including those that are null; a missing file has none.

    Raises:
        ValueError: the file is damaged, or one of them is not an id.
    """
    values = read_json(path) if path.is_file() else {}
    special_ids = {name: values[name] for name in names if name in values}
    for name, value in special_ids.items():
        ids = _as_list(value) if name == _EOS or value is None else [value]
        # Some files have -1 for a token that the model does not have.
        if not all(type(i) is int and (i >= 0 or name != _EOS) for i in ids):
            also = " or a list of them" if name == _EOS else ""
            raise unexpected(path, name, value, f"a token's number{also}")
    return special_ids


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def read_ends(path: Path) -> list[int]:
    """Read the ids at which a file says that texts end.

    Raises:
        ValueError: as in `read_ids`.
    """
    return ends(read_ids(path, [_EOS]))


def ends(ids: SpecialIds) -> list[int]:
    """Return the ids at which texts end."""
    return _as_list(ids.get(_EOS))


def known_ids(folder: Path) -> SpecialIds:
    """Read the ids of a folder; those of generation_config.json go before those of config.json.

    Raises:
        ValueError: as in `read_ids`.
    """
    return {**read_ids(folder / "config.json"), **non_null(read_ids(folder / GENERATION_CONFIG))}


def non_null(ids: Mapping[str, Any]) -> SpecialIds:
    """Leave out what is null."""
    return {name: value for name, value in ids.items() if value not in (None, [])}


def ids_of(tokenizer: Tokenizer) -> SpecialIds:
    """Return the ids of a tokenizer."""
    return dict(zip(_NAMES, (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), strict=True))


def completed(ids: SpecialIds, tokenizer: Tokenizer) -> SpecialIds:
    """Add a tokenizer's ids if no end is known; transformers would assume Llama 2's."""
    return ids if ends(ids) else {**ids_of(tokenizer), **non_null(ids)}


def joined(ids: SpecialIds, others: SpecialIds) -> SpecialIds:
    """Join the ids that come with the weights and those of another tokenizer.

    The first ones stay if they have all ends of the second ones. If not, they belong to another vocabulary, or the
    model was taught a further end later.
    """
    if {*ends(others)} <= {*ends(ids)}:
        return {**others, **ids, **non_null(others), **non_null(ids)}
    return {**others, **ids, **non_null(others)}
