"""Write the answers to multiple prompts."""

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
    """Answer prompts in batches, and write the answers of each batch as soon as it is complete.

    Args:
        assistant: The assistant that answers the prompts.
        prompts: The prompts.
        encoded: The prompts, encoded by `Assistant.encode_all`.
        batch_size: Number of prompts answered at once.
        output_file: JSON Lines file to which each prompt's row is appended, with the answer in the field `generated`;
            None: standard output.
    """
    for start in range(0, len(encoded), batch_size):
        batch = slice(start, start + batch_size)
        texts = assistant.answers(encoded[batch], batch_size=batch_size, first_index=start)
        for prompt, text in zip(prompts[batch], texts, strict=True):
            if output_file is None:
                print(f"> {prompt.text}\n{text}\n", flush=True)
                continue
            with Path(output_file).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**prompt.row, "generated": text}, ensure_ascii=False) + "\n")
