"""The table of adapter kinds."""

from typing import Literal

from torchtune.modules._adapter import Adapter
from torchtune.modules._dora import DoRA
from torchtune.modules._lora import EmbeddingLoRA, LoRA

AdapterKind = Literal["lora", "dora"]
"""Names of the kinds, as `add_lora` and configs take them."""

ADAPTERS: dict[AdapterKind, type[Adapter]] = {"lora": LoRA, "dora": DoRA}
"""The kinds by name."""

EMBEDDING_ADAPTERS: dict[AdapterKind, type[Adapter]] = {"lora": EmbeddingLoRA}
"""What changes an embedding table, for the kinds that change embeddings and output heads as well."""


def kind_of_adapter(adapter: Adapter) -> AdapterKind | None:
    """Return the name of an adapter's kind; None: it is not listed."""
    names = {ADAPTERS[name]: name for name in ADAPTERS}
    names |= {EMBEDDING_ADAPTERS[name]: name for name in EMBEDDING_ADAPTERS}
    return names.get(type(adapter))
