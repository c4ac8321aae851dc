"""The table of model families."""

from torchtune.models.gemma import GEMMA2_FAMILY, GEMMA3_FAMILY, GEMMA_FAMILY
from torchtune.models.gpt2 import GPT2_FAMILY
from torchtune.models.llama2 import LLAMA_FAMILY
from torchtune.models.mistral import MISTRAL_FAMILY
from torchtune.models.olmo2 import OLMO2_FAMILY
from torchtune.models.phi3 import PHI3_FAMILY
from torchtune.models.qwen2 import QWEN2_FAMILY
from torchtune.models.qwen3 import QWEN3_FAMILY

FAMILIES = {
    family.model_type: family
    for family in (
        LLAMA_FAMILY,
        MISTRAL_FAMILY,
        QWEN2_FAMILY,
        QWEN3_FAMILY,
        PHI3_FAMILY,
        OLMO2_FAMILY,
        GPT2_FAMILY,
        GEMMA_FAMILY,
        GEMMA2_FAMILY,
        GEMMA3_FAMILY,
    )
}
"""Model families by the `model_type` of config.json."""
