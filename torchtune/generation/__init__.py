"""Words out of a model: tokens with a KV cache, how they are chosen, and texts of them."""

from torchtune.generation._assistant import Assistant, EncodedPrompt, How, Question
from torchtune.generation._generate import check_prompt, evaluating, generate, generate_batch
from torchtune.generation._load import load
from torchtune.generation._prompts import Prompt, Template, encode_prompt, pick_template, read_prompts
from torchtune.generation._sampling import GREEDY, Sampling
from torchtune.generation._talk import talk
from torchtune.generation._text import AnswerText, as_text
from torchtune.generation._write import write_answers

__all__ = [
    "GREEDY",
    "AnswerText",
    "Assistant",
    "EncodedPrompt",
    "How",
    "Prompt",
    "Question",
    "Sampling",
    "Template",
    "as_text",
    "check_prompt",
    "encode_prompt",
    "evaluating",
    "generate",
    "generate_batch",
    "load",
    "pick_template",
    "read_prompts",
    "talk",
    "write_answers",
]
