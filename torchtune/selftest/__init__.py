"""Compare the computations of this machine with plain code in float64."""

from torchtune.selftest._check import Check, Result, Status, Unavailable, run_check
from torchtune.selftest._parts import checks
from torchtune.selftest._report import machine, report, table

__all__ = [
    "Check",
    "Result",
    "Status",
    "Unavailable",
    "checks",
    "machine",
    "report",
    "run_check",
    "table",
]
