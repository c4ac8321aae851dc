"""Tokenizers with ids beyond the embedding are rejected."""

from collections.abc import Sequence

import pytest
import torch

from tests.data.byte_tokenizer import CHATML, ByteTokenizer
from torchtune.models import check_vocabulary
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder


def model(vocab_size: int) -> Decoder:
    with torch.device("meta"):
        return smollm2(
            vocab_size=vocab_size, num_layers=1, embed_dim=8, num_heads=1, num_kv_heads=1, ffn_dim=8
        )


def test_tokenizer_may_have_as_many_ids_as_embedding_rows() -> None:
    check_vocabulary(ByteTokenizer(), model(261))
    check_vocabulary(ByteTokenizer(), model(512))


@pytest.mark.parametrize(
    ("size", "token"),
    [(260, r"'<\|im_end\|>' \(260\)"), (259, r"'<\|im_start\|>' \(259\)"), (90, r"'Z' \(90\)")],
)
def test_error_for_a_larger_tokenizer_names_the_first_token_without_an_embedding(
    size: int, token: str
) -> None:
    with pytest.raises(
        ValueError, match=f"has 261 ids, but the model's embedding has {size} rows, .* no row for {token}"
    ):
        check_vocabulary(ByteTokenizer(), model(size))


def test_unused_special_tokens_may_lack_an_embedding() -> None:
    class WithImages(ByteTokenizer):
        vocab_size = 262
        special_tokens = {**ByteTokenizer.special_tokens, "<image>": 261}  # noqa: RUF012 - a constant

    check_vocabulary(WithImages(), model(261))
    with pytest.raises(ValueError, match=r"no row for '<image>' \(261\)"):
        check_vocabulary(WithImages(CHATML + "<image>"), model(261))


@pytest.mark.parametrize(
    ("template", "is_used"),
    [
        ("{{ '<|im' ~ '_start|>' }}{% for m in messages %}{{ m.content }}{% endfor %}", True),
        ("{{ '<|im' ~ '_start|>' }}{{ raise_exception('for tools only') }}", False),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
    ],
)
def test_tokens_composed_by_a_template_count_as_used(template: str, is_used: bool) -> None:
    class WithoutTurns(ByteTokenizer):
        stop_ids = frozenset({257})

    if is_used:
        with pytest.raises(ValueError, match=r"no row for '<\|im_start\|>' \(259\)"):
            check_vocabulary(WithoutTurns(template), model(259))
    else:
        check_vocabulary(WithoutTurns(template), model(259))


def test_many_unused_ids_are_checked_quickly() -> None:
    class Sparse(ByteTokenizer):
        vocab_size = 10**12

        def decode(self, ids: Sequence[int]) -> str:
            return ""

    with pytest.raises(ValueError, match=r"has 1000000000000 ids, .* no row for '' \(261\)"):
        check_vocabulary(Sparse(), model(261))
