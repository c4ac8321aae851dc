"""Prompts for models without a chat template."""


def alpaca_prompt(instruction: str, input: str = "") -> str:  # noqa: A002 - the name of the dataset's column.
    """Return a prompt in the format of Stanford Alpaca; the answer follows it directly.

    Both variants are quoted from "Data Release" in the README of https://github.com/tatsu-lab/stanford_alpaca.

    Args:
        instruction: The task.
        input: The task's input; empty for a task without input.
    """
    if input:
        return (
            "Below is an instruction that describes a task, paired with an input that provides further"
            " context. Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes"
        f" the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    )
