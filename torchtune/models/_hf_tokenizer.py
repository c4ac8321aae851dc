"""Tokenizers of the Hugging Face kind: a tokenizer.json."""

from typing import TYPE_CHECKING

from torchtune.models._backend_tokenizer import BackendTokenizer
from torchtune.models._tokenizer_config import TokenizerConfig, tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class HFTokenizer(BackendTokenizer):
    """A tokenizer.json, with the special tokens and chat template that its neighbours name.

    Args:
        path: A tokenizer.json with tokenizer_config.json beside it, or their folder.

    Raises:
        FileNotFoundError: there is no tokenizer.json, or no tokenizer_config.json beside it.
        ValueError: one of them is damaged, or a special token is not in the vocabulary.
    """

    def __init__(self, path: str) -> None:
        file = tokenizer_file(path, "tokenizer.json")
        config = TokenizerConfig.beside(file)
        if not config.values:
            raise FileNotFoundError(f"no tokenizer_config.json beside {file}; it names the special tokens")
        super().__init__(file, config)

    def _read(self) -> "Backend":
        from tokenizers import Tokenizer as Backend

        try:
            return Backend.from_file(str(self._path))
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError(
                f"{self._path} is not a tokenizer.json, or is damaged ({error}); fetch it again"
            ) from error
