"""Answer one prompt, several, or a file of them, or talk.

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
from torchtune.runs import Device, locate_model, weights_note

SOURCES = ("prompt", "prompts", "prompts_file", "chat")


def _talks(cfg: "AlpacaGenerateConfig") -> bool:
    return cfg.chat is True or (cfg.chat is None and all(getattr(cfg, n) is None for n in SOURCES[:3]))


def _one_source(cfg: "AlpacaGenerateConfig", *_: object) -> None:
    given = [name for name in SOURCES if getattr(cfg, name) not in (None, False)]
    if len(given) > 1:
        message = f"prompts have one source, not {' and '.join(given)}; write {given[0]}=null"
        raise FieldError(message, *given)
    if not given and cfg.chat is False:
        message = "nothing is asked; give prompt, prompts or prompts_file, or leave chat=false out, to talk"
        raise FieldError(message, *SOURCES)


def _fits(cfg: "AlpacaGenerateConfig", field: "Attribute[Any]", value: Any) -> None:
    name, is_plain = field.name, cfg.template in ("alpaca", "plain")
    if name == "input" and value and cfg.prompt is None:
        raise FieldError(
            "input is what prompt is about, and there is no prompt; leave it out", name, "prompt"
        )
    if name == "continue_final_message" and value and cfg.prompts_file is None:
        message = "there is no prompts_file, whose conversations it is for; leave it out"
        raise FieldError(message, name, "prompts_file")
    if name == "output_file" and value is not None and _talks(cfg):
        message = "a chat goes to the terminal alone; give prompts, or leave output_file out"
        raise FieldError(message, name, "prompts")
    if name == "system" and value is not None and is_plain:
        message = f"the {cfg.template} template has no place for it; write template=chat, or null"
        raise FieldError(message, name, "template")
    if name == "chat" and _talks(cfg) and is_plain:
        message = (
            f"the {cfg.template} template has no turns to talk in; write template=chat, or give a prompt"
        )
        raise FieldError(message, name, "template", "prompt")
    if name in ("top_k", "top_p", "min_p") and value is not None and cfg.temperature == 0:
        message = f"{name} has no effect at temperature 0; write a temperature, or {name}=null"
        raise FieldError(message, name, "temperature")


@define(kw_only=True)
class AlpacaGenerateConfig:
    """Everything the alpaca_generate recipe reads."""

    prompt: str | None = field(default=None, validator=[not_empty(), _one_source])
    """What the model is asked; the answer is written to the terminal as it comes."""
    input: str = field(default="", validator=_fits)
    """What the prompt is about, such as a text to summarise; empty: it stands alone."""
    prefill: str = ""
    """Text that every answer begins with, and which the model continues; a row of prompts_file may have a `prefill` of
    its own. Empty: nothing."""
    prompts: list[str] | None = field(default=None, validator=[not_empty(), each(not_empty())])
    """Several prompts, answered in batches."""
    prompts_file: LocalPath | None = None
    """A file of prompts, in the formats and shapes of training rows: a text a line, `prompt`, `instruction` maybe with
    `input`, or `messages` maybe with `tools`, of which an answer at the end is left out."""
    continue_final_message: bool = field(default=False, validator=_fits)
    """Continue the answer at the end of each conversation of prompts_file in place of leaving it out."""
    chat: bool | None = field(default=None, validator=_fits)
    """Talk, turn by turn, with what is typed or comes through a pipe; null: if there is no prompt."""
    template: Template = "alpaca"
    """How prompts are written out: Stanford Alpaca's way, by the tokenizer's chat template, or plain, as they are;
    auto: by the chat template if there is one, else plain."""
    system: str | None = field(default=None, validator=_fits)
    """What a chat begins with, as in training; null: what the chat template says."""
    output_file: LocalPath | None = field(default=None, validator=_fits)
    """A new file of JSON lines: each prompt's row, with the answer as `generated`; null: to the terminal."""
    batch_size: int = field(default=8, validator=above(0))
    """Prompts answered at a time, where there are several; their answers do not depend on it."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: LocalPath
    """Folder of the weights: Hugging Face's, a PEFT adapter's beside its base, or a run's, of which `best/` is used if
    there is one; `final/` is named by its path."""
    adapter_directory: LocalPath | None = None
    """A LoRA adapter's PEFT folder, such as a run's `final/`, or its run's; null: what `model_directory` says."""
    tokenizer: Component[Tokenizer]
    """Text to token ids."""
    tokenizer_directory: LocalPath | None = ref("model_directory")
    """Folder of the tokenizer's files."""

    max_new_tokens: int = field(default=256, validator=above(0))
    """Tokens after which an answer is cut off."""
    temperature: float = field(default=0.0, validator=at_least(0))
    """What logits are divided by before drawing; 0 always takes the likeliest token."""
    top_k: int | None = field(default=None, validator=[above(0), _fits])
    """Draw among this many of the likeliest tokens; null: among all."""
    top_p: float | None = field(default=None, validator=[above(0), between(0, 1), _fits])
    """Draw among the fewest likeliest tokens that have this share together; null: among all."""
    min_p: float | None = field(default=None, validator=[above(0), between(0, 1), _fits])
    """Draw among tokens that have this share of the likeliest one's probability; null: among all."""
    repetition_penalty: float = field(default=1.0, validator=above(0))
    """What tokens of prompt and answer lose in their logits, by division (CTRL); 1: nothing."""
    stop: list[str] = field(factory=list, validator=each(not_empty()))
    """Strings before which an answer ends."""

    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed of the draws; null: another one every time."""
    device: Device = "auto"
    """What to compute on; auto is the first that is there of cuda, mps and cpu."""
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of weights and of computing; auto is bf16 on a GPU that has it, else fp32."""


@config.parse
def main(cfg: AlpacaGenerateConfig) -> None:
    """Answer prompts, or talk; answers are written to standard output, or to a file."""
    prompts = prompts_of(cfg)
    with training.start(cfg) as world:
        found = locate_model(cfg.model_directory, cfg.adapter_directory)
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
        questions = assistant.encode_all(prompts)
        training.Placement(lean_layers=False).place(model, world, str(found.base), dtype=cfg.dtype)
        if found.adapter is not None:
            load_peft_adapter(model, found.adapter)
        if _talks(cfg):
            chat(assistant, cfg.max_new_tokens)
        elif cfg.prompt is not None and cfg.output_file is None:
            for piece in assistant.stream(questions[0]):
                print(piece, end="", flush=True)
            print()
        else:
            write_answers(
                assistant, prompts, questions, batch_size=cfg.batch_size, output_file=cfg.output_file
            )
    if sys.stderr.isatty() and assistant.seconds:
        speed = assistant.n_tokens / assistant.seconds
        print(
            f"{assistant.n_tokens} token{'s' * (assistant.n_tokens != 1)}, {speed:.1f} a second",
            file=sys.stderr,
        )


def prompts_of(cfg: AlpacaGenerateConfig) -> list[Prompt]:
    """Return what is to be answered; nothing, where it will be typed."""
    if cfg.output_file is not None:
        if Path(cfg.output_file).exists():
            raise FileExistsError(
                f"output_file: {cfg.output_file} is there already; name a new file, or remove it"
            )
        Path(cfg.output_file).parent.mkdir(parents=True, exist_ok=True)
    if cfg.prompts_file is not None:
        return read_prompts(cfg.prompts_file, continue_final_message=cfg.continue_final_message)
    texts = cfg.prompts or ([] if cfg.prompt is None else [cfg.prompt])
    return [Prompt.from_text(text, cfg.input) for text in texts]


if __name__ == "__main__":
    main()
