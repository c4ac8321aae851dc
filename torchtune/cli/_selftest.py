"""`tune selftest`: compare this machine's computations with plain code in float64."""

import sys
from typing import Any

from torchtune.cli._command import JSON, Command, Form, write_json
from torchtune.runs.command_line import Call
from torchtune.runs.console import paint


def run(call: Call) -> int:
    """Run all checks and print the table, or the report as JSON; the exit status is 1 if any check is wrong."""
    import torch

    from torchtune.distributed import pick_device
    from torchtune.selftest import checks, machine, report, run_check, table

    device = pick_device("auto")
    torch.manual_seed(0)
    results = []
    for check in checks(device):
        results.append(run_check(check, device))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{len(results)} {check.part}: {check.name}")
            sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    is_wrong = any(result.status == "wrong" for result in results)
    if call.has(JSON):
        write_json(report(results, device))
        return int(is_wrong)
    sys.stdout.write(f"{_describe(machine(device))}\n\n")
    for line in table(results):
        sys.stdout.write(f"{line}\n")
    verdict = paint("wrong", "bold", "red") if is_wrong else paint("ok", "bold", "green")
    sys.stdout.write(f"\n{verdict}\n")
    return int(is_wrong)


def _describe(values: dict[str, Any]) -> str:
    hardware = ", ".join(values["gpus"]) or f"{values['processor']}, {values['cpu_capability']}"
    return f"{values['device']}: {hardware}; torch {values['torch']}, Python {values['python']}"


COMMAND = Command(
    "selftest",
    run,
    forms=(Form((), (JSON,)),),
    description="""\
Compares computations of this machine with plain code in float64: attention kernels
and their gradients for the shapes of every model family, the loss, lean layers,
adapters, optimizer steps and loss scaling. An error is allowed to be four times the
error of the plain code in the same precision. Exits with status 1 if anything is
wrong. With --json, prints a report to send to the developers.""",
    examples=("tune selftest", "tune selftest --json > selftest.json"),
)
