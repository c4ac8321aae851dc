"""A tokenizer whose ids go beyond the embedding is refused before anything is loaded."""

import pytest
import torch

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder
from torchtune.training import check_vocabulary


def model(vocab_size: int) -> Decoder:
    with torch.device("meta"):
        return smollm2(
            vocab_size=vocab_size, num_layers=1, embed_dim=8, num_heads=1, num_kv_heads=1, ffn_dim=8
        )


def test_a_tokenizer_may_be_as_large_as_the_embedding() -> None:
    check_vocabulary(ByteTokenizer(), model(261))
    check_vocabulary(ByteTokenizer(), model(512))


@pytest.mark.parametrize(
    ("size", "token"),
    [(260, r"'<\|im_end\|>' \(260\)"), (259, r"'<\|im_start\|>' \(259\)"), (90, r"'Z' \(90\)")],
)
def test_a_larger_one_is_refused_with_the_first_token(size: int, token: str) -> None:
    with pytest.raises(
        ValueError, match=f"has 261 ids and the model's embedding {size}, .* none for {token}"
    ):
        check_vocabulary(ByteTokenizer(), model(size))


def test_special_tokens_that_nothing_uses_may_lie_behind() -> None:
    class WithImages(ByteTokenizer):
        vocab_size = 262
        special_tokens = {**ByteTokenizer.special_tokens, "<image>": 261}  # noqa: RUF012 - a constant

    check_vocabulary(WithImages(), model(261))
    with pytest.raises(ValueError, match=r"none for '<image>' \(261\)"):
        check_vocabulary(WithImages(CHATML + "<image>"), model(261))
