"""Greedy decoding and sampling produce the expected tokens, for single prompts and for batches."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import random_tokens, tiny_smollm2
from torchtune.formats import save_hf_folder
from torchtune.generation import Sampling, generate, generate_batch
from torchtune.modules import Decoder, add_lora

PROMPT: list[int] = random_tokens(7).tolist()


def greedy_without_cache(model: Decoder, tokens: list[int], n: int) -> list[int]:
    for _ in range(n):
        tokens = [*tokens, int(model(torch.tensor([tokens]))[0, -1].argmax())]
    return tokens[-n:]


def test_greedy_tokens_match_decoding_without_a_cache_and_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_smollm2(
        tied_embeddings=False
    )  # With tied random weights, the model would repeat the last token.
    answer = list(generate(model, PROMPT, max_new_tokens=20))
    assert answer == greedy_without_cache(model, PROMPT, 20)
    assert len(set(answer)) > 5, "the answer must vary, or the comparison is meaningless"
    save_hf_folder(model, tmp_path / "model")
    reference: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = torch.tensor([PROMPT])
    reference_tokens = reference.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert answer == reference_tokens[0, len(PROMPT) :].tolist()


def test_a_stop_id_ends_the_text_and_is_not_included() -> None:
    model = tiny_smollm2(tied_embeddings=False)
    full = list(generate(model, PROMPT, max_new_tokens=20))
    stop = full[9]
    expected = full[: full.index(stop)]
    assert list(generate(model, PROMPT, max_new_tokens=20, stop_ids={stop, 299})) == expected


def test_samples_follow_the_softmax_of_the_logits() -> None:
    model = tiny_smollm2()
    with torch.no_grad():
        model.embed_tokens.weight.mul_(0.3)
        logits = model(torch.tensor([PROMPT]))[0, -1]
    top = logits.topk(4)
    probs = torch.softmax(top.values / 0.7, dim=-1)
    generator = torch.Generator().manual_seed(0)
    samples = torch.tensor(
        [
            next(generate(model, PROMPT, max_new_tokens=1, temperature=0.7, top_k=4, generator=generator))
            for _ in range(400)
        ]
    )
    frequencies = (samples[:, None] == top.indices).double().mean(dim=0)
    assert frequencies.sum() == 1
    torch.testing.assert_close(frequencies, probs, rtol=0, atol=4 * 0.5 / 400**0.5)  # four standard errors


def test_generators_with_equal_seeds_give_equal_samples() -> None:
    model = tiny_smollm2()
    first, second = (
        list(
            generate(
                model, PROMPT, max_new_tokens=9, temperature=5.0, generator=torch.Generator().manual_seed(1)
            )
        )
        for _ in range(2)
    )
    assert first == second != list(generate(model, PROMPT, max_new_tokens=9))


def test_generation_disables_dropout_and_restores_the_model() -> None:
    model = tiny_smollm2(tied_embeddings=False)
    expected = list(generate(model, PROMPT, max_new_tokens=5))
    add_lora(model, "all-linear", rank=2, alpha=4.0, dropout=0.9)
    model.train()
    tokens = generate(model, PROMPT, max_new_tokens=5)
    assert next(tokens) == expected[0]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert [expected[0], *tokens] == expected
    assert model.training


def test_generation_may_fill_but_not_exceed_max_seq_len() -> None:
    model = tiny_smollm2()
    assert len(list(generate(model, PROMPT, max_new_tokens=64 - len(PROMPT)))) == 64 - len(PROMPT)
    with pytest.raises(
        ValueError, match=r"the prompt has 7 tokens; .* max_new_tokens = 58, this exceeds .* 64"
    ):
        generate(model, PROMPT, max_new_tokens=58)


@pytest.mark.parametrize(
    ("tokens", "temperature", "top_k", "message"),
    [
        ([], 0.0, None, "the prompt is empty; generation needs at least one prompt token"),
        (
            [1, 300],
            0.0,
            None,
            "ids from 1 to 300, but the model's vocabulary size is 300; use the model's own tokenizer",
        ),
        ([1], -1.0, None, "temperature: expected a number of at least 0, got -1.0"),
        ([1], 1.0, 0, "top_k: expected a whole number above 0, or None, got 0"),
        ([1], 0.0, 5, "top_k has no effect at temperature 0"),
    ],
)
def test_invalid_arguments_raise_before_the_first_token(
    tokens: list[int], temperature: float, top_k: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny_smollm2(), tokens, max_new_tokens=5, temperature=temperature, top_k=top_k)


PROMPTS = [random_tokens(9).tolist(), PROMPT[:1], PROMPT[:5], PROMPT]
SAMPLED = Sampling(temperature=3.0, top_p=0.95, repetition_penalty=1.1)


def test_an_answer_does_not_depend_on_its_batch() -> None:
    model = tiny_smollm2(tied_embeddings=False)
    batched = generate_batch(model, PROMPTS, max_new_tokens=12, sampling=SAMPLED, seed=5)
    for row, prompt in enumerate(PROMPTS):
        separate = generate_batch(
            model, [prompt], max_new_tokens=12, sampling=SAMPLED, seed=5, first_index=row
        )
        assert separate == [batched[row]]
    assert generate_batch(model, PROMPTS, max_new_tokens=12, sampling=SAMPLED, seed=6) != batched
    same = generate_batch(model, [PROMPT] * 3, max_new_tokens=12, sampling=SAMPLED, seed=5)
    assert len({tuple(answer) for answer in same}) == 3, (
        "rows with equal prompts must use different random numbers"
    )


def test_the_default_generator_of_torch_is_used_if_no_seed_is_set() -> None:
    model = tiny_smollm2()
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(generate_batch(model, [PROMPT], max_new_tokens=9, sampling=SAMPLED))
    assert answers[0] == answers[1] != answers[2]


def test_a_penalty_applies_to_its_own_row_after_other_rows_end() -> None:
    model, penalized = tiny_smollm2(tied_embeddings=False), Sampling(repetition_penalty=1.3)
    full = generate_batch(model, PROMPTS, max_new_tokens=12, sampling=penalized)
    stops = {full[0][1], full[2][4]}
    stopped = generate_batch(model, PROMPTS, max_new_tokens=12, sampling=penalized, stop_ids=stops)
    assert stopped == [a[: next((i for i, t in enumerate(a) if t in stops), 12)] for a in full]
    assert 12 in map(len, stopped)


def test_greedy_answers_use_no_random_numbers() -> None:
    model = tiny_smollm2()
    before = torch.get_rng_state()
    generate_batch(model, PROMPTS, max_new_tokens=3, sampling=Sampling(repetition_penalty=1.2))
    list(generate(model, PROMPT, max_new_tokens=3))
    assert torch.equal(torch.get_rng_state(), before), (
        "greedy generation must not change the random state of a training run"
    )


def test_finished_rows_are_removed_from_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_smollm2(tied_embeddings=False)
    full = generate_batch(model, PROMPTS, max_new_tokens=12)
    stops = {full[0][2], full[2][5], full[3][0]}
    sizes = []
    forward = Decoder.hidden

    def record_size(self: Decoder, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(tokens.numel())
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Decoder, "hidden", record_size)
    stopped = generate_batch(model, PROMPTS, max_new_tokens=12, stop_ids=stops)
    assert stopped == [a[: next((i for i, t in enumerate(a) if t in stops), 12)] for a in full]
    assert 0 in map(len, stopped)
    expected = [sum(len(answer) > step for answer in stopped) for step in range(11)]
    assert sizes == [4 * 9, *(n for n in expected if n)]


def test_the_mode_of_every_module_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_smollm2()
    model.train()
    model.layers[0].eval()
    before = [module.training for module in model.modules()]
    generate_batch(model, PROMPTS, max_new_tokens=3)
    assert [module.training for module in model.modules()] == before
    monkeypatch.setattr(model, "logits", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_batch(model, PROMPTS, max_new_tokens=3)
    assert [module.training for module in model.modules()] == before


def test_a_sharded_model_generates_between_training_steps() -> None:
    """A backward pass must work even if FSDP's first forward pass, which allocates buffers, ran in generation."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    model = tiny_smollm2(tied_embeddings=False)
    expected = generate_batch(model, PROMPTS, max_new_tokens=6)
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but missing from `__all__`
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
        register_fsdp_forward_method(model, "hidden")
        for _ in range(2):
            assert generate_batch(model, PROMPTS, max_new_tokens=6) == expected
            torch.autograd.backward(model.logits(model.hidden(torch.tensor([PROMPT]))).sum())
    finally:
        dist.destroy_process_group()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_empty_batch_produces_no_answers() -> None:
    assert generate_batch(tiny_smollm2(), [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("prompts", "max_new_tokens", "message"),
    [
        ([[1], []], 5, "prompt 12 is empty"),
        ([[1, 300]], 5, "prompt 11 has ids from 1 to 300"),
        ([[1], [1], [1] * 60], 5, "prompt 13 has 60 tokens; together with max_new_tokens = 5, this exceeds"),
        ([[1]], 0, "max_new_tokens: expected a number above 0, got 0"),
    ],
)
def test_errors_contain_the_prompt_index_or_the_option(
    prompts: list[list[int]], max_new_tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate_batch(tiny_smollm2(), prompts, max_new_tokens=max_new_tokens, first_index=10)
