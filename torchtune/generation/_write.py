"""Answers of several prompts, written as they come."""

import json
from collections.abc import Sequence
from pathlib import Path

from torchtune.generation._assistant import Assistant, EncodedPrompt
from torchtune.generation._prompts import Prompt


def write_answers(
    assistant: Assistant,
    prompts: Sequence[Prompt],
    encoded: Sequence[EncodedPrompt],
    *,
    batch_size: int,
    output_file: str | None,
) -> None:
    """Answer several prompts, and write each batch as soon as it is complete.

    Args:
        assistant: Answers.
        prompts: What is asked.
        encoded: The same, as `Assistant.encode_all` returned it.
        batch_size: Prompts answered at a time.
        output_file: File of JSON lines that each prompt's row is added to, with the answer as `generated`; None:
            standard output.
    """
    for start in range(0, len(encoded), batch_size):
        batch = slice(start, start + batch_size)
        texts = assistant.answers(encoded[batch], batch_size=batch_size, first_row=start)
        for prompt, text in zip(prompts[batch], texts, strict=True):
            if output_file is None:
                print(f"> {prompt.text}\n{text}\n", flush=True)
                continue
            with Path(output_file).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**prompt.row, "generated": text}, ensure_ascii=False) + "\n")
