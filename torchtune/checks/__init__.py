"""Check a config before a run, for `tune validate`."""

from torchtune.checks._folders import tokenizer_errors, weight_errors
from torchtune.checks._rows import held_out_errors, row_errors
from torchtune.checks._schedule import schedule_errors

__all__ = ["held_out_errors", "row_errors", "schedule_errors", "tokenizer_errors", "weight_errors"]
