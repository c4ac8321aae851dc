"""Building blocks of models: plain `nn.Module`s, adapters and losses."""

from torchtune.modules._adapter import Adaptable, Adapter
from torchtune.modules._adapter_kinds import ADAPTERS, EMBEDDING_ADAPTERS, AdapterKind, kind_of_adapter
from torchtune.modules._adapters import (
    ALL_LINEAR,
    adapted_layers,
    adapters_disabled,
    add_adapter,
    add_lora,
    fully_trained_parameters,
    has_adapters,
    lora_state,
    merge_lora,
)
from torchtune.modules._architecture import Architecture
from torchtune.modules._attend import attend
from torchtune.modules._attention import Attention, GroupedQuerySpec
from torchtune.modules._attention_mask import PassShape
from torchtune.modules._context import PassContext
from torchtune.modules._decoder import Decoder
from torchtune.modules._decoder_layer import DecoderLayer
from torchtune.modules._documents import Documents, DocumentSpan
from torchtune.modules._dora import DoRA
from torchtune.modules._feed_forward import DenseSpec, FeedForward
from torchtune.modules._hardware import Hardware, assume_hardware, hardware_of
from torchtune.modules._initialize import initialize
from torchtune.modules._kv_cache import KVCache, LayerCache
from torchtune.modules._layer_norm import LayerNorm, LayerNormSpec
from torchtune.modules._lean import LeanLayer, lean, rotate
from torchtune.modules._linear import Embedding, Linear
from torchtune.modules._linear_cross_entropy import LinearCrossEntropy, loss_chunk_size
from torchtune.modules._lora import EmbeddingLoRA, LoRA
from torchtune.modules._parts import (
    AttentionSpec,
    FeedForwardSpec,
    HasAggregates,
    NormSpec,
    PartiallyActive,
    PositionsSpec,
    active_fractions,
)
from torchtune.modules._positions import LearnedSpec, RotarySpec
from torchtune.modules._rms_norm import RMSNorm, RMSNormSpec
from torchtune.modules._rotary import RopeScaling, RotaryEmbedding, Rotation
from torchtune.modules._sharded import copy_full, gather_full, is_sharded
from torchtune.modules._token_log_probs import token_log_probs, token_log_probs_and_entropies

__all__ = [
    "ADAPTERS",
    "ALL_LINEAR",
    "EMBEDDING_ADAPTERS",
    "Adaptable",
    "Adapter",
    "AdapterKind",
    "Architecture",
    "Attention",
    "AttentionSpec",
    "Decoder",
    "DecoderLayer",
    "DenseSpec",
    "DoRA",
    "DocumentSpan",
    "Documents",
    "Embedding",
    "EmbeddingLoRA",
    "FeedForward",
    "FeedForwardSpec",
    "GroupedQuerySpec",
    "Hardware",
    "HasAggregates",
    "KVCache",
    "LayerCache",
    "LayerNorm",
    "LayerNormSpec",
    "LeanLayer",
    "LearnedSpec",
    "Linear",
    "LinearCrossEntropy",
    "LoRA",
    "NormSpec",
    "PartiallyActive",
    "PassContext",
    "PassShape",
    "PositionsSpec",
    "RMSNorm",
    "RMSNormSpec",
    "RopeScaling",
    "RotaryEmbedding",
    "RotarySpec",
    "Rotation",
    "active_fractions",
    "adapted_layers",
    "adapters_disabled",
    "add_adapter",
    "add_lora",
    "assume_hardware",
    "attend",
    "copy_full",
    "fully_trained_parameters",
    "gather_full",
    "hardware_of",
    "has_adapters",
    "initialize",
    "is_sharded",
    "kind_of_adapter",
    "lean",
    "lora_state",
    "loss_chunk_size",
    "merge_lora",
    "rotate",
    "token_log_probs",
    "token_log_probs_and_entropies",
]
