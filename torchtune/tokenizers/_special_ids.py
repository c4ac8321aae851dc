"""The ids at which texts begin and end, as config.json and generation_config.json repeat them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.data import Tokenizer
from torchtune.files import read_json, unexpected

GENERATION_CONFIG = "generation_config.json"

EOS = "eos_token_id"
_NAMES = ("bos_token_id", EOS, "pad_token_id")


class SpecialIds(dict[str, Any]):
    """`bos_token_id`, `eos_token_id` and `pad_token_id`, each a number or null; the second may be a list."""

    @classmethod
    def of_folder(cls, folder: Path) -> "SpecialIds":
        """Read the ids of a folder; those of generation_config.json go before those of config.json.

        Raises:
            ValueError: as in `read_ids`.
        """
        return cls({**read_ids(folder / "config.json"), **read_ids(folder / GENERATION_CONFIG).non_null()})

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Return the ids of a tokenizer."""
        return cls(zip(_NAMES, (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), strict=True))

    def ends(self) -> list[int]:
        """Return the ids at which texts end."""
        return _as_list(self.get(EOS))

    def non_null(self) -> "SpecialIds":
        """Leave out what is null."""
        return SpecialIds({name: value for name, value in self.items() if value not in (None, [])})

    def completed(self, tokenizer: Tokenizer) -> "SpecialIds":
        """Add a tokenizer's ids if no end is known; transformers would assume Llama 2's."""
        return self if self.ends() else SpecialIds({**self.of_tokenizer(tokenizer), **self.non_null()})

    def joined(self, others: "SpecialIds") -> "SpecialIds":
        """Join these, which come with the weights, and those of another tokenizer.

        These stay if they have all ends of the others. If not, they belong to another vocabulary, or the model was
        taught a further end later.
        """
        joined = SpecialIds({**others, **self, **others.non_null()})
        if {*others.ends()} <= {*self.ends()}:
            joined.update(self.non_null())
        return joined


def read_ids(path: Path, names: Sequence[str] = _NAMES) -> SpecialIds:
    """Read the ids that a file has, including those that are null; a missing file has none.

    Raises:
        ValueError: the file is damaged, or one of them is not an id.
    """
    values = read_json(path) if path.is_file() else {}
    special_ids = SpecialIds({name: values[name] for name in names if name in values})
    for name, value in special_ids.items():
        ids = _as_list(value) if name == EOS or value is None else [value]
        # Some files have -1 for a token that the model does not have.
        if not all(type(i) is int and (i >= 0 or name != EOS) for i in ids):
            also = " or a list of them" if name == EOS else ""
            raise unexpected(path, name, value, f"a token's number{also}")
    return special_ids


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
