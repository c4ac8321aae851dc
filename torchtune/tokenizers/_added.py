"""Add special tokens to a tokenizer's files."""

from collections.abc import Sequence
from pathlib import Path

from attrs import asdict

from torchtune.files import read_json, write_json
from torchtune.tokenizers._auto import auto_tokenizer
from torchtune.tokenizers._chat_templates import CONFIG
from torchtune.tokenizers._config import ADDED, AddedToken
from torchtune.tokenizers._files import vocabulary_file


def add_special_tokens(folder: Path, tokens: Sequence[str]) -> int:
    """Add special tokens to the tokenizer of a folder, in place.

    Args:
        folder: Folder with tokenizer.json and tokenizer_config.json.
        tokens: Texts of the tokens; existing special tokens are skipped.

    Returns:
        The new vocabulary size: the highest id plus one.

    Raises:
        FileNotFoundError: The folder has no tokenizer.
        ValueError: The tokenizer is not a tokenizer.json, its files are damaged, or a token is empty.
    """
    if "" in tokens:
        raise ValueError("special tokens must not be empty; remove the empty token")
    tokenizer = auto_tokenizer(str(folder))
    new = [token for token in dict.fromkeys(tokens) if token not in tokenizer.special_tokens]
    if not new:
        return tokenizer.vocab_size
    file = vocabulary_file(folder)
    assert file is not None
    if file.name != "tokenizer.json":
        raise ValueError(
            f"tokens can only be added to a tokenizer.json, but the tokenizer is a {file.name}; convert it with"
            " transformers first (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    _add(folder, file, new)
    return auto_tokenizer(str(folder)).vocab_size


def _add(folder: Path, file: Path, tokens: Sequence[str]) -> None:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(file))
    backend.add_special_tokens([AddedToken(0).backend(token) for token in tokens])
    file.write_text(backend.to_str(pretty=True), encoding="utf-8")
    config = read_json(folder / CONFIG)
    if ADDED in config:  # if present, it must list all added tokens
        flags = asdict(AddedToken(0), filter=lambda attribute, _: attribute.name != "id")
        entries = {str(backend.token_to_id(token)): {"content": token, **flags} for token in tokens}
        write_json(folder / CONFIG, {**config, ADDED: {**config[ADDED], **entries}})
