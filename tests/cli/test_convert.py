"""`tune convert` detects the format of a checkpoint, and rejects invalid arguments."""

from pathlib import Path

import pytest

from tests.formats.tiny_gguf import write_gguf
from tests.formats.tiny_meta import LLAMA2, write_meta
from tests.models.tiny import tiny_smollm2
from tests.tune import Tune
from torchtune.formats import save_peft_adapter
from torchtune.modules import add_lora


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def test_checkpoint_format_is_detected_from_the_files(tune: Tune, gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_meta(tmp_path / "meta", LLAMA2, n=2)
    base, halves = str(tmp_path / "base"), str(tmp_path / "halves")
    assert tune("convert", str(gguf), base).out == f"wrote {base}\n"
    assert tune("convert", str(tmp_path / "meta"), str(tmp_path / "llama")).status == 0
    assert tune("convert", base, halves, "--dtype=float16").status == 0
    model = tiny_smollm2()
    add_lora(model, "all-linear", rank=2, alpha=4.0)
    save_peft_adapter(model, tmp_path / "adapter", base_model=base)
    source, merged = str(tmp_path / "adapter"), str(tmp_path / "merged")
    convert_line, merge_line = tune("convert", source, merged).out.splitlines()
    assert convert_line == f"wrote {merged}, with {source} merged into {base}"
    assert merge_line.startswith("merging changed the logits of 16 tokens by ")
    options = ("--tokenizer", base, "--base", halves, "--dtype", "float32")
    assert (
        tune("convert", source, f"{merged}-32", *options)
        .out.splitlines()[0]
        .endswith(f"merged into {halves}")
    )
    assert tune("convert", source, f"{merged}-adapter", "--keep-adapter").out == f"wrote {merged}-adapter\n"
    for name, dtype in [
        ("base", "bfloat16"),
        ("llama", "float64"),
        ("halves", "float16"),
        ("merged", "bfloat16"),
        ("merged-32", "float32"),
    ]:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert str(loaded.dtype) == f"torch.{dtype}"


def test_missing_tokenizer_is_reported_as_a_note(tune: Tune, gguf: Path, tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "target"
    tune("convert", str(gguf), str(base))
    (base / "tokenizer.json").unlink()
    result = tune("convert", str(base), str(target))
    assert (result.status, result.out) == (0, f"wrote {target}\n")
    note = f"{target} has no tokenizer, because {base} has none; add one with --tokenizer"
    assert result.err == f"note: {note}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("{}/tiny.gguf", "{}/out", "--dtype", "int4"),
            "--dtype: invalid value 'int4'; choose one of bfloat16, float16, float32",
        ),
        (("{}/tiny.gguf", "{}/out", "--dtype"), "--dtype: expected a value"),
        (("{}/tiny.gguf", "{}/out", "--base=", "--keep-adapter"), "--base: expected a value"),
        (
            ("{}/tiny.gguf", "{}/out", "--dtype=float16", "--dtype=float32"),
            "--dtype float32: --dtype is given twice",
        ),
        (("{}/tiny.gguf", "{}/out", "--merge"), "--merge: unknown option; tune convert --help lists"),
        (
            ("{}/tiny.gguf", "{}/out", "--keep-adapter=yes"),
            "--keep-adapter does not accept a value",
        ),
        (("{}/tiny.gguf",), "tune convert expects a checkpoint and a folder"),
        (("{}/tiny.gguf", "{}/out", "more"), "tune convert expects a checkpoint and a folder"),
        (
            ("{}/tiny.gguf", "{}/out", "--keep-adapter"),
            "keep_adapter (--keep-adapter) applies to adapters, but",
        ),
        (("{}/tiny.gguf", "{}"), "would be overwritten by the target"),
        (("{}", "{}/out"), "is not a checkpoint; expected config.json"),
        (("{}/none", "{}/out"), "none does not exist"),
    ],
)
def test_invalid_arguments_exit_with_status_2_and_write_nothing(
    tune: Tune, gguf: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    result = tune("convert", *(arg.format(tmp_path) for arg in args))
    assert result.status == 2
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == [gguf.name]
