"""The program that `test_saved_weights.py` runs on each of two ranks."""

import filecmp
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import AdamW

from configs_py.smollm2 import smollm2_135m_full
from tests.training.tiny import (
    SINGLE_RANK,
    examples,
    make_batch,
    perturb_adapters,
    place,
    tiny_decoder,
    tiny_validator,
)
from torchtune.distributed import World
from torchtune.formats import load_hf_weights, load_peft_adapter
from torchtune.modules import Decoder, LinearCrossEntropy, lora_state
from torchtune.placement import DTYPES, Sharding, full_state
from torchtune.training import Lora, Metrics, NextToken, Validation, save_model, start

LORA = Lora(targets=["all-linear", "embed_tokens"], rank=3, modules_to_save=["norm"])
"""Adapters and a fully trained module in the root module as well as in the layers."""
SHARDINGS: dict[str, dict[str, Any]] = {
    "replicated": {},
    "sharded": {"enable_fsdp": True},
    "gathered": {"enable_fsdp": True, "sharding": Sharding(reshard_after_forward=False)},
    "offloaded": {"enable_fsdp": True, "sharding": Sharding(cpu_offload=True)},
    "offloaded, gathered": {
        "enable_fsdp": True,
        "sharding": Sharding(cpu_offload=True, reshard_after_forward=False),
    },
    "hsdp": {"enable_fsdp": True, "sharding": Sharding(replicas=2, reshard_after_forward=False)},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "pure bf16": {"dtype": "bf16", "weights_dtype": "bf16"},
}


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 0


def train_and_save(
    world: World, folder: Path, lora: Lora | None, *, dtype: str, **settings: Any
) -> dict[str, Any] | None:
    """Take a step, validate, save `best/` and `final/`, and take another step; all ranks must call this function.

    Returns:
        On rank 0, by the names of the trained parameters: `trained`, the parameters of the optimizer; `gathered`, the
        result of `full_state`; and `saved`, the contents of `final/`. Also `dtypes`, the dtypes of the saved tensors;
        `resumed`, the parameters of the optimizer after the second step; and `different`, the names of the files that
        differ between `best/`, which the validator saves, and `final/`.
    """
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, **settings)
    perturb_adapters(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = AdamW(trained.values(), lr=0.01)
    _step(model, optimizer)
    fields: dict[str, Any] = {"dtype": dtype, "model_directory": None, "tokenizer_directory": None}
    cfg = evolve(smollm2_135m_full(), output_dir=str(folder), **fields)
    section = Validation(fraction=0.5, prompts=["abc"], max_new_tokens=3)
    save_best = partial(save_model, cfg, model, world, "best")
    with Metrics(str(folder), [], world, 0, 99) as metrics:
        tiny_validator(folder, section, model, world=world, save=save_best).validate(1, metrics)
    before = _full_copies(trained)
    save_model(cfg, model, world, "final")
    gathered = full_state(model, world)
    gathered = None if gathered is None else {name: p.clone() for name, p in gathered.items()}
    _step(model, optimizer)
    after = _full_copies(trained)
    if not world.is_main:
        return None
    saved, dtypes = _read(folder / "final", lora, dtype)
    names = sorted(path.name for path in (folder / "final").iterdir())
    _, mismatched, missing = filecmp.cmpfiles(folder / "final", folder / "best", names, shallow=False)
    return {
        "trained": before,
        "gathered": gathered,
        "saved": saved,
        "dtypes": dtypes,
        "resumed": after,
        "different": [*mismatched, *missing],
    }


def _step(model: Decoder, optimizer: AdamW) -> None:
    score = NextToken(LinearCrossEntropy())(model, make_batch(examples()))
    torch.autograd.backward(score.terms["next_token"].total)
    optimizer.step()
    optimizer.zero_grad()


def _full_copies(parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in parameters.items()
    }


def _read(folder: Path, lora: Lora | None, dtype: str) -> tuple[dict[str, Tensor], set[torch.dtype]]:
    """Load a saved folder into a model whose parameters have the saved dtypes, so that no value is rounded."""
    model = tiny_decoder()
    if lora is None:
        load_hf_weights(model.to(DTYPES[dtype]), folder)
        tensors = load_file(folder / "model.safetensors")
        return {name: p.detach() for name, p in model.named_parameters()}, {t.dtype for t in tensors.values()}
    load_peft_adapter(model, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    return dict(lora_state(model)), {t.dtype for t in tensors.values()}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as joined:
        world = evolve(joined, seed=SINGLE_RANK.seed)
        results = {}
        for sharding, settings in SHARDINGS.items():
            for kind, lora in {"full": None, "lora": LORA}.items():
                name = f"{sharding} {kind}"
                results[name] = train_and_save(world, out / name, lora, dtype="bf16", **settings)
        if world.is_main:
            torch.save(results, out / "results.pt")
