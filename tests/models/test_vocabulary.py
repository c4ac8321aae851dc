"""A tokenizer whose ids go beyond the embedding is refused before anything is loaded."""

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


@pytest.mark.parametrize(
    ("template", "is_used"),
    [
        ("{{ '<|im' ~ '_start|>' }}{% for m in messages %}{{ m.content }}{% endfor %}", True),
        ("{{ '<|im' ~ '_start|>' }}{{ raise_exception('for tools alone') }}", False),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
    ],
)
def test_tokens_that_a_template_puts_together_are_used(template: str, is_used: bool) -> None:
    class WithoutTurns(ByteTokenizer):
        stop_ids = frozenset({257})

    if is_used:
        with pytest.raises(ValueError, match=r"none for '<\|im_start\|>' \(259\)"):
            check_vocabulary(WithoutTurns(template), model(259))
    else:
        check_vocabulary(WithoutTurns(template), model(259))


def test_many_ids_that_are_no_tokens_take_no_time() -> None:
    class Sparse(ByteTokenizer):
        vocab_size = 10**12

        def decode(self, ids: Sequence[int]) -> str:
            return ""

    with pytest.raises(ValueError, match=r"has 1000000000000 ids .* none for '' \(261\)"):
        check_vocabulary(Sparse(), model(261))
