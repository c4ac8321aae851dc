"""Answer one or more prompts, answer a file of prompts, or start a chat.

tune alpaca_generate --config generate model_directory=runs/mine prompt="Who are you?"
"""

import sys
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import Attribute, define, field

from torchtune import config, training
from torchtune.config import Component, FieldError, LocalPath, above, at_least, between, each, not_empty, ref
from torchtune.data import Tokenizer
from torchtune.formats import load_peft_adapter
from torchtune.generation import Assistant, Prompt, Template, chat, read_prompts, write_answers
from torchtune.models import check_vocabulary
from torchtune.modules import Decoder
from torchtune.placement import Placement
from torchtune.runs import Device, locate_model, weights_note

SOURCES = ("prompt", "prompts", "prompts_file", "chat")


def _is_chat(cfg: "AlpacaGenerateConfig") -> bool:
    return cfg.chat is True or (cfg.chat is None and all(getattr(cfg, n) is None for n in SOURCES[:3]))


def _check_one_source(cfg: "AlpacaGenerateConfig", *_: object) -> None:
    sources = [name for name in SOURCES if getattr(cfg, name) not in (None, False)]
    if len(sources) > 1:
        message = f"only one source of prompts is allowed, got {' and '.join(sources)}; set {sources[0]}=null"
        raise FieldError(message, *sources)
    if not sources and cfg.chat is False:
        message = "there is no prompt; set prompt, prompts or prompts_file, or remove chat=false to chat"
        raise FieldError(message, *SOURCES)


def _check_effect(cfg: "AlpacaGenerateConfig", field: "Attribute[Any]", value: Any) -> None:
    name, is_plain = field.name, cfg.template in ("alpaca", "plain")
    if name == "input" and value and cfg.prompt is None:
        raise FieldError("input has no effect without prompt; remove it", name, "prompt")
    if name == "continue_final_message" and value and cfg.prompts_file is None:
        message = "continue_final_message has no effect without prompts_file; remove it"
        raise FieldError(message, name, "prompts_file")
    if name == "output_file" and value is not None and _is_chat(cfg):
        message = "the answers of a chat cannot be written to a file; set prompts, or remove output_file"
        raise FieldError(message, name, "prompts")
    if name == "system" and value is not None and is_plain:
        message = f"the {cfg.template} template does not support a system message; set template=chat, or system=null"
        raise FieldError(message, name, "template")
    if name == "chat" and _is_chat(cfg) and is_plain:
        message = f"the {cfg.template} template does not support chats; set template=chat, or set prompt"
        raise FieldError(message, name, "template", "prompt")
    if name in ("top_k", "top_p", "min_p") and value is not None and cfg.temperature == 0:
        message = f"{name} has no effect at temperature 0; set temperature, or {name}=null"
        raise FieldError(message, name, "temperature")


@define(kw_only=True)
class AlpacaGenerateConfig:
    """The config of the alpaca_generate recipe."""

    prompt: str | None = field(default=None, validator=[not_empty(), _check_one_source])
    """A single prompt; the answer is streamed to the terminal."""
    input: str = field(default="", validator=_check_effect)
    """Input for the prompt, such as an article to summarize; empty: no input."""
    prefill: str = ""
    """Text with which every answer starts, and which the model continues; a row of prompts_file can override it with a
    field `prefill`. Empty: no text."""
    prompts: list[str] | None = field(default=None, validator=[not_empty(), each(not_empty())])
    """A list of prompts, answered in batches."""
    prompts_file: LocalPath | None = None
    """A file of prompts in any format supported for training data. Each row is a line of text, or has `prompt`,
    `instruction` (optionally with `input`) or `messages` (optionally with `tools`). An answer at the end of `messages`
    is ignored."""
    continue_final_message: bool = field(default=False, validator=_check_effect)
    """Continue the answer at the end of each conversation in prompts_file, instead of ignoring the answer."""
    chat: bool | None = field(default=None, validator=_check_effect)
    """Start a chat that reads messages from the terminal or a pipe; null: chat if no prompts are set."""
    template: Template = "alpaca"
    """Format of the prompts. alpaca: the Alpaca prompt template; chat: the tokenizer's chat template; plain:
    unchanged; auto: the chat template if there is one, otherwise plain."""
    system: str | None = field(default=None, validator=_check_effect)
    """The system message; null: the default of the chat template."""
    output_file: LocalPath | None = field(default=None, validator=_check_effect)
    """JSON Lines file to create for the answers: each line is the prompt's row with the answer added as `generated`;
    null: print the answers."""
    batch_size: int = field(default=8, validator=above(0))
    """Number of prompts to answer at once; it does not affect the answers."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: LocalPath
    """Folder of a Hugging Face model, of a PEFT adapter whose base model can be found, or of a run. For a run, `best/`
    is used if it exists, otherwise `final/`; pass the path of a subfolder to use that one."""
    adapter_directory: LocalPath | None = None
    """Folder of a PEFT adapter, such as a run's `final/`, or of a run; null: the adapter in `model_directory`, if there
    is one."""
    tokenizer: Component[Tokenizer]
    """The tokenizer, which encodes text as token ids."""
    tokenizer_directory: LocalPath | None = ref("model_directory")
    """Folder that contains the tokenizer's files."""

    max_new_tokens: int = field(default=256, validator=above(0))
    """Maximum length of an answer (tokens)."""
    temperature: float = field(default=0.0, validator=at_least(0))
    """Sampling temperature; 0: always choose the most likely token."""
    top_k: int | None = field(default=None, validator=[above(0), _check_effect])
    """Number of most likely tokens to sample from; null: all tokens."""
    top_p: float | None = field(default=None, validator=[above(0), between(0, 1), _check_effect])
    """Sample from the smallest set of most likely tokens whose total probability reaches this value (nucleus sampling);
    null: all tokens."""
    min_p: float | None = field(default=None, validator=[above(0), between(0, 1), _check_effect])
    """Sample from tokens with at least this fraction of the highest probability; null: all tokens."""
    repetition_penalty: float = field(default=1.0, validator=above(0))
    """Penalty on the logits of tokens already in the prompt or answer (CTRL, arXiv 1909.05858); 1: no penalty."""
    stop: list[str] = field(factory=list, validator=each(not_empty()))
    """Strings that end an answer; the answer does not include them."""

    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed for sampling; null: a random seed."""
    device: Device = "auto"
    """Device to run on; auto: the first available of cuda, mps and cpu."""
    deterministic: bool = False
    """Use deterministic algorithms, so that repeating a run on the same GPUs gives bit-for-bit identical results; this
    is slower. A run on a CPU is repeatable without this setting."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of weights and computation; auto: bf16 on GPUs that support it, otherwise fp32."""


@config.parse
def main(cfg: AlpacaGenerateConfig) -> None:
    """Answer prompts or start a chat; answers are printed or written to a file."""
    prompts = prompts_of(cfg)
    with training.start(cfg) as world:
        folders = locate_model(cfg.model_directory, cfg.adapter_directory)
        for folder in filter(None, (cfg.model_directory, cfg.adapter_directory)):
            note = weights_note(folder)
            if note is not None and world.is_main:
                print(f"note: {note}", file=sys.stderr)
        tokenizer = config.instantiate(cfg.tokenizer)
        with torch.device("meta"):
            model = config.instantiate(cfg.model).requires_grad_(requires_grad=False)
        check_vocabulary(tokenizer, model)
        assistant = Assistant(
            model,
            tokenizer,
            template=cfg.template,
            system=cfg.system,
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            top_p=cfg.top_p,
            min_p=cfg.min_p,
            repetition_penalty=cfg.repetition_penalty,
            stop=cfg.stop,
            prefill=cfg.prefill,
            seed=world.seed,
        )
        encoded = assistant.encode_all(prompts)
        Placement(lean_layers=False).place(model, world, str(folders.base), dtype=cfg.dtype)
        if folders.adapter is not None:
            load_peft_adapter(model, folders.adapter, dtype=model.compute_dtype)
        if _is_chat(cfg):
            chat(assistant, cfg.max_new_tokens)
        elif cfg.prompt is not None and cfg.output_file is None:
            for piece in assistant.stream(encoded[0]):
                print(piece, end="", flush=True)
            print()
        else:
            write_answers(assistant, prompts, encoded, batch_size=cfg.batch_size, output_file=cfg.output_file)
    if sys.stderr.isatty() and assistant.seconds:
        speed = assistant.n_tokens / assistant.seconds
        print(
            f"{assistant.n_tokens} token{'s' * (assistant.n_tokens != 1)}, {speed:.1f} tokens/s",
            file=sys.stderr,
        )


def prompts_of(cfg: AlpacaGenerateConfig) -> list[Prompt]:
    """Return the prompts to answer; an empty list for a chat."""
    if cfg.output_file is not None:
        if Path(cfg.output_file).exists():
            raise FileExistsError(
                f"output_file: {cfg.output_file} already exists; choose a different path, or delete the existing file"
            )
        Path(cfg.output_file).parent.mkdir(parents=True, exist_ok=True)
    if cfg.prompts_file is not None:
        return read_prompts(cfg.prompts_file, continue_final_message=cfg.continue_final_message)
    prompts = cfg.prompts or ([] if cfg.prompt is None else [cfg.prompt])
    return [Prompt.from_text(prompt, cfg.input) for prompt in prompts]


if __name__ == "__main__":
    main()
