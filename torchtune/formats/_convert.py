"""Other people's checkpoints to ours: the work behind `tune convert`."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import evolve, frozen

from torchtune.files import partial_path, resolve_folder
from torchtune.formats._logits import LogitChange, logit_change
from torchtune.formats._source import Checkpoint, Progress, write_checkpoint
from torchtune.formats._tensor_files import some
from torchtune.formats._vocabulary import with_vocabulary
from torchtune.formats._with_tokenizer import with_tokenizer
from torchtune.formats.gguf._file import is_gguf
from torchtune.formats.gguf._open import open_gguf
from torchtune.formats.hf._open import open_hf
from torchtune.formats.meta._open import is_meta, open_meta
from torchtune.formats.peft._config import ADAPTER_CONFIG, read_peft_config
from torchtune.formats.peft._load import copy_peft_adapter, read_peft_adapter
from torchtune.formats.peft._merge import merged_weights, untied
from torchtune.runs import missing_model_hint, weights_in
from torchtune.tokenizers import has_tokenizer

StrPath = str | os.PathLike[str]


@frozen
class Merge:
    """An adapter that was merged into its base."""

    base: Path
    """The base's file or folder."""
    change: LogitChange
    """How far logits moved, since sums of weights are rounded to the dtype that is written."""


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
    """Turn a checkpoint of any kind into a Hugging Face folder, tensor by tensor.

    What the source is, is seen from what it holds: a GGUF file; a folder of Meta's (params.json and
    consolidated.00.pth), of Hugging Face's (config.json), or of PEFT's (adapter_config.json), which is merged into its
    base.

    Args:
        source: The file or folder.
        target: The folder to write: config, weights and tokenizer in one.
        base: The model that an adapter is for, of any of the other kinds. None: what its adapter_config.json names.
        keep_adapter: Keep an adapter separate instead of merging it. The target is a PEFT folder with the adapter's
            tokenizer, and names `base` if that is given.
        tokenizer: A folder with the tokenizer to put beside the weights, or a file of it. None: the source's own; an
            adapter's where its folder has one, else its base's.
        dtype: Of the weights. None: the source's own, or bfloat16 for GGUF files.
        add_tokens: Special tokens to add to the tokenizer. Embeddings and output head get rows for them, each the mean
            of the rows that there are.
        vocab_size: Rows of embeddings and output head, at least as many as there are. None: as many as there are, or as
            the added tokens need.
        progress: Called after each tensor with the number done and the number of all.

    Returns:
        What was merged, and how far that moved logits; None if the source is no adapter, or stays one.

    Raises:
        FileNotFoundError: the source, its base or a file of theirs is missing.
        FileExistsError: the target has something in it.
        OSError: there is no room for the target.
        ValueError: the source is none of these, is damaged, or holds what is not supported; or an argument has no
            effect on it.
    """
    _check_exist(source, base, tokenizer)
    source, target = Path(source), Path(target)
    base = None if base is None else Path(base)
    tokenizer = None if tokenizer is None else Path(tokenizer)
    is_adapter = (source / ADAPTER_CONFIG).is_file()
    if is_adapter and base is None and not keep_adapter:
        base = _base_of(source)
    _check_paths(target, source, base, tokenizer)
    if not is_adapter:
        for value, option in ((base, "base (--base)"), (keep_adapter, "keep_adapter (--keep-adapter)")):
            if value:
                raise ValueError(
                    f"{option} is for adapters, and {source} is not one (no {ADAPTER_CONFIG}); leave it out"
                )
        checkpoint = with_vocabulary(_open(source, tokenizer), add_tokens, vocab_size)
        write_checkpoint(checkpoint, target, dtype=dtype, progress=progress)
        return None
    if add_tokens or vocab_size is not None:
        option = "add_tokens (--add-token)" if add_tokens else "vocab_size (--vocab-size)"
        raise ValueError(
            f"{option} is for whole models, and {source} is an adapter; convert its base, and name that"
        )
    if keep_adapter:
        if tokenizer is not None:
            raise ValueError(
                "keep_adapter (--keep-adapter) also keeps the adapter's tokenizer; leave out tokenizer (--tokenizer)"
            )
        model = None if base is None else _open(base).model
        if model is not None:
            read_peft_adapter(model, source)
        named = None if base is None else str(base)
        copy_peft_adapter(source, target, base_model=named, model=model, dtype=dtype)
        return None
    assert base is not None
    merged = _merge(source, base, tokenizer)
    write_checkpoint(merged, target, dtype=dtype, progress=progress)
    return Merge(base, logit_change(merged, target))


def _check_exist(*paths: StrPath | None) -> None:
    for path in paths:
        if path is not None and not Path(path).exists():
            hint = missing_model_hint(path, Path.exists)
            raise FileNotFoundError(f"no file or folder {path}" + (f"; {hint}" if hint else ""))


def _check_paths(target: Path, *sources: Path | None) -> None:
    """Refuse what would be replaced before it is read."""
    written = resolve_folder(target)
    for path in sources:
        if path is not None and any(
            path.resolve().is_relative_to(folder) for folder in (written, partial_path(written))
        ):
            raise ValueError(f"{path} is in the folder that is to be written, {target}; choose another one")


def _merge(adapter: Path, base: Path, tokenizer: Path | None) -> Checkpoint:
    checkpoint = _open(base, tokenizer)
    if tokenizer is None and has_tokenizer(adapter):
        checkpoint = with_tokenizer(checkpoint, adapter)
    changes = read_peft_adapter(checkpoint.model, adapter)
    if changes.is_untied:
        checkpoint = untied(checkpoint)
    weights = merged_weights(checkpoint.weights, checkpoint.model.architecture, changes)
    return evolve(checkpoint, weights=weights)


def _base_of(adapter: Path) -> Path:
    """Find the base that an adapter names."""
    named = read_peft_config(adapter).get("base_model_name_or_path")
    if named and Path(named).exists():
        return Path(named)
    says = f"says that its base is {named!r}, which is not here" if named else "does not say what its base is"
    hint = missing_model_hint(named) if named else ""
    raise FileNotFoundError(
        f"{adapter / ADAPTER_CONFIG} {says}: name the base (--base), or keep the adapter separate (--keep-adapter)"
        + (f"; {hint}" if hint else "")
    )


def _open(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Look into a whole model of whatever kind."""
    if path.is_file():
        if path.suffix.lower() != ".gguf" and not is_gguf(path):
            raise ValueError(
                f"{path} is no GGUF file; for a file of other weights, name the folder that it lies in"
            )
        if tokenizer is not None:
            raise ValueError(f"{path} brings a tokenizer of its own; leave tokenizer (--tokenizer) out")
        return open_gguf(path)
    if (path / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{path} is an adapter, not a base; merge it into its own base first")
    if (path / "config.json").is_file():
        checkpoint = open_hf(path)
        return checkpoint if tokenizer is None else with_tokenizer(checkpoint, tokenizer)
    if is_meta(path):
        return open_meta(path, tokenizer)
    weights = weights_in(path)
    if weights:
        raise ValueError(
            f"{path} is a run's folder, not a checkpoint; name the weights in it, {' or '.join(map(str, weights))}"
        )
    files = sorted(file.name for file in path.glob("*.gguf"))
    raise ValueError(
        f"{path} is no checkpoint: it holds neither config.json (Hugging Face's) nor params.json and"
        f" consolidated.00.pth (Meta's) nor {ADAPTER_CONFIG} (an adapter)"
        + (f"; name a file in it, {some(files)}" if files else "")
    )
