"""Hugging Face tokenizers: tokenizer.json."""

import os
from typing import TYPE_CHECKING, Unpack

from torchtune.tokenizers._backend import BackendTokenizer, add_configured_tokens
from torchtune.tokenizers._config import TokenizerConfig, tokenizer_file
from torchtune.tokenizers._options import TokenizerOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class HFTokenizer(BackendTokenizer):
    """A tokenizer.json, with the special tokens and the chat template of the files next to it.

    Args:
        path: A tokenizer.json with a tokenizer_config.json next to it, or their folder.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: tokenizer.json or tokenizer_config.json does not exist.
        ValueError: A file is damaged, a special token is not in the vocabulary, or an option has no effect.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> None:
        file = tokenizer_file(path, "tokenizer.json")
        config = TokenizerConfig.for_file(file)
        if not config.values:
            raise FileNotFoundError(
                f"no tokenizer_config.json next to {file}; it declares the special tokens"
            )
        super().__init__(file, config, options)

    def _read(self) -> "Backend":
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_file(str(self._path))
        except Exception as error:  # the library raises no narrower type
            raise ValueError(
                f"{self._path} is not a tokenizer.json, or is damaged ({error}); download it again"
            ) from error
        add_configured_tokens(backend, self._config)
        return backend
