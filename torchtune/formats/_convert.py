"""Convert checkpoints to Hugging Face folders: the implementation of `tune convert`."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import evolve, frozen

from torchtune.files import partial_path, resolve_folder
from torchtune.formats._checkpoint import Checkpoint, Progress, write_checkpoint
from torchtune.formats._logits import LogitChange, logit_change
from torchtune.formats._tensor_files import first_names
from torchtune.formats._vocabulary import with_vocabulary
from torchtune.formats._with_tokenizer import with_tokenizer
from torchtune.formats.gguf._file import is_gguf
from torchtune.formats.gguf._open import open_gguf
from torchtune.formats.hf._open import open_hf
from torchtune.formats.meta._open import is_meta, open_meta
from torchtune.formats.peft._config import ADAPTER_CONFIG, read_peft_config
from torchtune.formats.peft._load import copy_peft_adapter, read_peft_adapter
from torchtune.formats.peft._merge import merged_weights, untie_embeddings
from torchtune.runs import missing_model_hint, weights_in
from torchtune.tokenizers import has_tokenizer

StrPath = str | os.PathLike[str]


@frozen
class Merge:
    """The result of merging an adapter into its base."""

    base: Path
    """The file or folder of the base model."""
    change: LogitChange
    """The change in the logits caused by rounding merged weights to the output dtype."""


def convert(
    source: StrPath,
    target: StrPath,
    *,
    base: StrPath | None = None,
    keep_adapter: bool = False,
    tokenizer: StrPath | None = None,
    dtype: torch.dtype | None = None,
    add_tokens: Sequence[str] = (),
    vocab_size: int | None = None,
    progress: Progress | None = None,
) -> "Merge | None":
    """Convert a checkpoint of any supported format to a Hugging Face folder, tensor by tensor.

    The format is detected: a GGUF file, or a folder in the format of Meta (params.json and consolidated.00.pth),
    Hugging Face (config.json) or PEFT (adapter_config.json). A PEFT adapter is merged into its base.

    Args:
        source: The file or folder.
        target: The folder to write, with config, weights and tokenizer.
        base: The base model of an adapter, in any of the other formats. None: the model named in adapter_config.json.
        keep_adapter: Keep an adapter separate instead of merging it. The target is a PEFT folder with the adapter's
            tokenizer; its adapter_config.json names `base` if that is not None.
        tokenizer: A folder with the tokenizer to write, or one of its files. None: the tokenizer of the source; for an
            adapter without a tokenizer, the tokenizer of its base.
        dtype: The dtype of the weights. None: as in the source, or bfloat16 for GGUF files.
        add_tokens: Special tokens to add to the tokenizer. The embedding table and the output head get a row for each,
            the mean of the existing rows.
        vocab_size: Number of rows of the embedding table and the output head; at least the current number. None: the
            current number, or more if the added tokens need more.
        progress: Called after each tensor with the number of converted tensors and the total number.

    Returns:
        The base of the merged adapter and the change in the logits; None if nothing was merged.

    Raises:
        FileNotFoundError: The source, its base or one of their files is missing.
        FileExistsError: The target exists and is not empty.
        OSError: There is not enough disk space for the target.
        ValueError: The source has an unknown format, is damaged or is not supported; or an argument does not apply to
            it.
    """
    _check_exist(source, base, tokenizer)
    source, target = Path(source), Path(target)
    base = None if base is None else Path(base)
    tokenizer = None if tokenizer is None else Path(tokenizer)
    is_adapter = (source / ADAPTER_CONFIG).is_file()
    if is_adapter and base is None and not keep_adapter:
        base = _find_base(source)
    _check_paths(target, source, base, tokenizer)
    if not is_adapter:
        for value, option in ((base, "base (--base)"), (keep_adapter, "keep_adapter (--keep-adapter)")):
            if value:
                raise ValueError(
                    f"{option} applies to adapters, but {source} is not one (no {ADAPTER_CONFIG}); remove the option"
                )
        checkpoint = with_vocabulary(_open(source, tokenizer), add_tokens, vocab_size)
        write_checkpoint(checkpoint, target, dtype=dtype, progress=progress)
        return None
    if add_tokens or vocab_size is not None:
        option = "add_tokens (--add-token)" if add_tokens else "vocab_size (--vocab-size)"
        raise ValueError(
            f"{option} applies to full models, but {source} is an adapter; convert its base with this option first,"
            " then use the result as the base (--base)"
        )
    if keep_adapter:
        if tokenizer is not None:
            raise ValueError(
                "keep_adapter (--keep-adapter) also keeps the adapter's tokenizer; remove tokenizer (--tokenizer)"
            )
        model = None if base is None else _open(base).model
        if model is not None:
            read_peft_adapter(model, source)
        base_model = None if base is None else str(base)
        copy_peft_adapter(source, target, base_model=base_model, model=model, dtype=dtype)
        return None
    assert base is not None
    merged = _merge(source, base, tokenizer)
    write_checkpoint(merged, target, dtype=dtype, progress=progress)
    return Merge(base, logit_change(merged, target))


def _check_exist(*paths: StrPath | None) -> None:
    for path in paths:
        if path is not None and not Path(path).exists():
            hint = missing_model_hint(path, Path.exists)
            raise FileNotFoundError(f"{path} does not exist" + (f"; {hint}" if hint else ""))


def _check_paths(target: Path, *sources: Path | None) -> None:
    """Check that writing the target does not overwrite one of the sources."""
    target_folder = resolve_folder(target)
    for path in sources:
        if path is not None and any(
            path.resolve().is_relative_to(folder) for folder in (target_folder, partial_path(target_folder))
        ):
            raise ValueError(f"{path} would be overwritten by the target {target}; choose a different target")


def _merge(adapter: Path, base: Path, tokenizer: Path | None) -> Checkpoint:
    checkpoint = _open(base, tokenizer)
    if tokenizer is None and has_tokenizer(adapter):
        checkpoint = with_tokenizer(checkpoint, adapter)
    changes = read_peft_adapter(checkpoint.model, adapter)
    if changes.is_untied:
        checkpoint = untie_embeddings(checkpoint)
    weights = merged_weights(checkpoint.weights, checkpoint.model.architecture, changes)
    return evolve(checkpoint, weights=weights)


def _find_base(adapter: Path) -> Path:
    """Return the base model that an adapter names."""
    base = read_peft_config(adapter).get("base_model_name_or_path")
    if base and Path(base).exists():
        return Path(base)
    problem = f"names the base model {base!r}, which does not exist" if base else "does not name a base model"
    hint = missing_model_hint(base) if base else ""
    raise FileNotFoundError(
        f"{adapter / ADAPTER_CONFIG} {problem}; set it with --base, or keep the adapter separate (--keep-adapter)"
        + (f"; {hint}" if hint else "")
    )


def _open(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open a full model of any supported format."""
    if path.is_file():
        if path.suffix.lower() != ".gguf" and not is_gguf(path):
            raise ValueError(
                f"{path} is not a GGUF file; to convert weights in another format, pass the folder that contains them"
            )
        if tokenizer is not None:
            raise ValueError(f"{path} contains a tokenizer; remove tokenizer (--tokenizer)")
        return open_gguf(path)
    if (path / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{path} is an adapter, not a base model; merge it into its base first")
    if (path / "config.json").is_file():
        checkpoint = open_hf(path)
        return checkpoint if tokenizer is None else with_tokenizer(checkpoint, tokenizer)
    if is_meta(path):
        return open_meta(path, tokenizer)
    weights = weights_in(path)
    if weights:
        raise ValueError(
            f"{path} is a run's folder, not a checkpoint; use the weights in it, {' or '.join(map(str, weights))}"
        )
    files = sorted(file.name for file in path.glob("*.gguf"))
    raise ValueError(
        f"{path} is not a checkpoint; expected config.json (Hugging Face), params.json and consolidated.00.pth (Meta),"
        f" or {ADAPTER_CONFIG} (PEFT)"
        + (f"; to convert a GGUF file in it, pass the file, {first_names(files)}" if files else "")
    )
