"""The table of adapter kinds."""

from typing import Literal

from torchtune.modules._adapter import Adapter
from torchtune.modules._dora import DoRA
from torchtune.modules._lora import LoRA

AdapterKind = Literal["lora", "dora"]
"""Names of the kinds, as `add_lora` and configs take them."""

ADAPTERS: dict[AdapterKind, type[Adapter]] = {"lora": LoRA, "dora": DoRA}
"""The kinds by name."""
