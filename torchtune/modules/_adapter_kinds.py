"""The table of adapter kinds."""

from typing import Literal

from torchtune.modules._adapter import Adapter
from torchtune.modules._dora import DoRA
from torchtune.modules._lora import EmbeddingLoRA, LoRA

AdapterKind = Literal["lora", "dora"]
"""Names of the adapter kinds, as used by `add_lora` and in configs."""

ADAPTERS: dict[AdapterKind, type[Adapter]] = {"lora": LoRA, "dora": DoRA}
"""Adapter classes for linear layers, by kind."""

EMBEDDING_ADAPTERS: dict[AdapterKind, type[Adapter]] = {"lora": EmbeddingLoRA}
"""Adapter classes for embedding tables, by kind; only these kinds also adapt output heads."""


def kind_of_adapter(adapter: Adapter) -> AdapterKind | None:
    """Return the name of an adapter's kind, or None if the adapter's class is not listed."""
    kinds = {ADAPTERS[name]: name for name in ADAPTERS}
    kinds |= {EMBEDDING_ADAPTERS[name]: name for name in EMBEDDING_ADAPTERS}
    return kinds.get(type(adapter))
