"""Special token ids in config.json and generation_config.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.data import Tokenizer
from torchtune.files import read_json, unexpected_value

GENERATION_CONFIG = "generation_config.json"
"""The file of a Hugging Face folder that defines the tokens that end an answer."""

EOS = "eos_token_id"
_NAMES = ("bos_token_id", EOS, "pad_token_id")


class SpecialIds(dict[str, Any]):
    """`bos_token_id`, `eos_token_id` and `pad_token_id`, each an id or null; `eos_token_id` may be a list."""

    @classmethod
    def from_folder(cls, folder: Path) -> "SpecialIds":
        """Read the ids of a folder; generation_config.json takes precedence over config.json.

        Raises:
            ValueError: As in `read_ids`.
        """
        return cls({**read_ids(folder / "config.json"), **read_ids(folder / GENERATION_CONFIG).non_null()})

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Return the ids of a tokenizer."""
        return cls(zip(_NAMES, (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), strict=True))

    def eos_ids(self) -> list[int]:
        """Return the end-of-sequence ids as a list."""
        return _as_list(self.get(EOS))

    def non_null(self) -> "SpecialIds":
        """Return the ids that are not null."""
        return SpecialIds({name: value for name, value in self.items() if value not in (None, [])})

    def completed(self, tokenizer: Tokenizer) -> "SpecialIds":
        """Add a tokenizer's ids if there is no EOS id, since transformers would then assume Llama 2's."""
        return self if self.eos_ids() else SpecialIds({**self.from_tokenizer(tokenizer), **self.non_null()})

    def joined(self, others: "SpecialIds") -> "SpecialIds":
        """Combine these ids, which come with the weights, with the ids of a different tokenizer.

        These ids take precedence if they include all EOS ids of `others`. Otherwise they belong to a different
        vocabulary, or the model was later trained with a further EOS token.
        """
        joined = SpecialIds({**others, **self, **others.non_null()})
        if {*others.eos_ids()} <= {*self.eos_ids()}:
            joined.update(self.non_null())
        return joined


def read_ids(path: Path, names: Sequence[str] = _NAMES) -> SpecialIds:
    """Read the ids in a file, including null ones; a missing file contains no ids.

    Raises:
        ValueError: The file is damaged, or a value is not an id.
    """
    values = read_json(path) if path.is_file() else {}
    special_ids = SpecialIds({name: values[name] for name in names if name in values})
    for name, value in special_ids.items():
        ids = _as_list(value) if name == EOS or value is None else [value]
        # Some files use -1 for a token that the model does not have.
        if not all(type(i) is int and (i >= 0 or name != EOS) for i in ids):
            or_list = " or a list of them" if name == EOS else ""
            raise unexpected_value(path, name, value, f"a token id{or_list}")
    return special_ids


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
