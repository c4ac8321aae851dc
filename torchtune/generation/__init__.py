"""Text generation: decoding with a KV cache, sampling, prompts and streamed answers."""

from torchtune.generation._assistant import AnswerOptions, Assistant, EncodedPrompt, Question
from torchtune.generation._chat import chat
from torchtune.generation._generate import check_prompt, eval_mode, generate, generate_batch
from torchtune.generation._load import load
from torchtune.generation._prompts import Prompt, Template, encode_prompt, pick_template, read_prompts
from torchtune.generation._sampling import GREEDY, Sampling
from torchtune.generation._text import AnswerText, decode_stream
from torchtune.generation._write import write_answers

__all__ = [
    "GREEDY",
    "AnswerOptions",
    "AnswerText",
    "Assistant",
    "EncodedPrompt",
    "Prompt",
    "Question",
    "Sampling",
    "Template",
    "chat",
    "check_prompt",
    "decode_stream",
    "encode_prompt",
    "eval_mode",
    "generate",
    "generate_batch",
    "load",
    "pick_template",
    "read_prompts",
    "write_answers",
]
