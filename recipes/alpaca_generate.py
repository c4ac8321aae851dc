"""Answer one prompt.

tune alpaca_generate --config smollm2_135m_generate prompt="Who are you?"
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from attrs import define, field

from torchtune import config, training
from torchtune.config import Component, above, at_least, between, not_empty, ref
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt, check_chat
from torchtune.generation import generate
from torchtune.models import load_peft_adapter
from torchtune.modules import Decoder


@define(kw_only=True)
class AlpacaGenerateConfig:
    """Everything the alpaca_generate recipe reads."""

    prompt: str = field(validator=not_empty())
    """What the model is asked."""
    input: str = ""
    """What the prompt is about, such as a text to summarise; empty: it stands alone."""
    template: Literal["alpaca", "chat"] = "alpaca"
    """How the prompt is written out: Stanford Alpaca's way, or by the tokenizer's chat template."""
    system: str | None = None
    """What a chat begins with, as in training; null: what the chat template says."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: str
    """Hugging Face folder that weights are read from."""
    adapter_directory: str | None = None
    """PEFT folder of a LoRA adapter, such as a run's `final/`; null: none."""
    tokenizer: Component[Tokenizer]
    """Text to token ids."""
    tokenizer_directory: str | None = ref("model_directory")
    """Folder of the tokenizer's files."""

    max_new_tokens: int = field(default=256, validator=above(0))
    """Tokens after which an answer is cut off."""
    temperature: float = field(default=0.0, validator=at_least(0))
    """What logits are divided by before drawing; 0 always takes the likeliest token."""
    top_k: int | None = field(default=None, validator=above(0))
    """Draw among this many of the likeliest tokens; null: among all."""

    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed of the draws; null: another one every time."""
    device: training.Device = "auto"
    """What to compute on; auto is the first that is there of cuda, mps and cpu."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of weights and of computing."""

    def __attrs_post_init__(self) -> None:
        if self.template == "alpaca" and self.system is not None:
            raise ValueError(
                "system: the alpaca template has no place for one; write template=chat, or null here"
            )


@config.parse
def main(cfg: AlpacaGenerateConfig) -> None:
    """Answer one prompt; the answer is written to standard output as it comes."""
    with training.start(cfg) as world:
        tokenizer = config.instantiate(cfg.tokenizer)
        prompt = encoded_prompt(cfg, tokenizer)
        with torch.device("meta"):
            model = config.instantiate(cfg.model).requires_grad_(requires_grad=False)
        training.check_vocabulary(tokenizer, model)
        training.place(model, world, dtype=cfg.dtype, model_directory=cfg.model_directory)
        if cfg.adapter_directory is not None:
            load_peft_adapter(model, cfg.adapter_directory)
        answer = generate(
            model,
            prompt,
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            stop_ids=tokenizer.stop_ids,
        )
        for text in as_text(answer, tokenizer):
            print(text, end="", flush=True)
        print()


def encoded_prompt(cfg: AlpacaGenerateConfig, tokenizer: Tokenizer) -> list[int]:
    """Write the prompt out as the model was taught to read it, and encode it.

    Raises:
        ValueError: The chat template is asked for and the tokenizer has none, or `system` is set without it.
    """
    if cfg.template == "alpaca":
        if cfg.system is not None:
            raise ValueError(
                "system: has no place in the alpaca template; leave it out, or write template=chat"
            )
        return tokenizer.encode(alpaca_prompt(cfg.prompt, cfg.input), add_eos=False)
    check_chat(tokenizer)
    content = f"{cfg.prompt}\n\n{cfg.input}" if cfg.input else cfg.prompt
    system = [] if cfg.system is None else [Message(role="system", content=cfg.system)]
    return chat_prompt(tokenizer, [*system, Message(role="user", content=content)])


def as_text(ids: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode an answer piece by piece, each as soon as it can no longer change.

    A character may take several tokens, and a token's text may depend on those before it; so the whole answer is
    decoded each time, and what is new is passed on once it does not end within a character.
    """
    so_far: list[int] = []
    written = text = ""
    for token in ids:
        so_far.append(token)
        text = tokenizer.decode(so_far)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(written) :]
            written = text
    yield text[len(written) :]


if __name__ == "__main__":
    main()
