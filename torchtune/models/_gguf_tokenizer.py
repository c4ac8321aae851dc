"""The tokenizer in a GGUF file's metadata."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_CONTROL, _USER_DEFINED = 3, 4
"""Token types: special tokens, and plain ones that are found before the text is split."""

_SPLITS_DIGITS = {"gpt-2": False, "smollm": True}
"""By `tokenizer.ggml.pre`, whether digits are split singly before byte-level BPE."""


def gguf_tokenizer(metadata: dict[str, Any]) -> "Backend":
    """Build the byte-level BPE tokenizer that a GGUF file describes.

    Raises:
        ValueError: it is of another kind, or does not hold together.
        KeyError: a part is missing.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    kind, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != "gpt2" or pre not in _SPLITS_DIGITS:
        raise ValueError(
            f"its tokenizer is of the kind {kind!r} / {pre!r}; supported are 'gpt2' /"
            f" {' or '.join(map(repr, _SPLITS_DIGITS))}"
        )
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(kinds) != len(tokens) or any(len(m) != 2 for m in merges):
        raise ValueError("its tokenizer has doubled tokens, or merges that are no pairs")
    try:
        backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # The library raises nothing narrower.
        raise ValueError(f"its tokenizer's merges do not fit its tokens: {error}") from error
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS_DIGITS[pre] else []
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=metadata.get("tokenizer.ggml.add_space_prefix", False)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in {_CONTROL, _USER_DEFINED}
        ]
    )
    return backend
