"""What models are made of: plain `nn.Module`s, LoRA layers and losses."""

from torchtune.modules._adapters import ALL_LINEAR, add_lora, lora_layers, lora_state, merge_lora
from torchtune.modules._architecture import Architecture, RopeScaling
from torchtune.modules._attention import Attention, AttentionContext
from torchtune.modules._decoder import Decoder
from torchtune.modules._decoder_layer import DecoderLayer
from torchtune.modules._documents import Documents, DocumentSpan
from torchtune.modules._dora import DoRALinear
from torchtune.modules._draw import copy_whole, draw, is_sharded
from torchtune.modules._feed_forward import FeedForward
from torchtune.modules._kv_cache import KVCache, LayerCache
from torchtune.modules._layer_norm import LayerNorm
from torchtune.modules._lean import lean
from torchtune.modules._linear_cross_entropy import LinearCrossEntropy
from torchtune.modules._lora import LoRALinear, lora_scale, merge_weight
from torchtune.modules._rms_norm import RMSNorm
from torchtune.modules._rotary import RotaryEmbedding, Rotation
from torchtune.modules._token_log_probs import token_log_probs, token_log_probs_and_entropies

__all__ = [
    "ALL_LINEAR",
    "Architecture",
    "Attention",
    "AttentionContext",
    "Decoder",
    "DecoderLayer",
    "DoRALinear",
    "DocumentSpan",
    "Documents",
    "FeedForward",
    "KVCache",
    "LayerCache",
    "LayerNorm",
    "LinearCrossEntropy",
    "LoRALinear",
    "RMSNorm",
    "RopeScaling",
    "RotaryEmbedding",
    "Rotation",
    "add_lora",
    "copy_whole",
    "draw",
    "is_sharded",
    "lean",
    "lora_layers",
    "lora_scale",
    "lora_state",
    "merge_lora",
    "merge_weight",
    "token_log_probs",
    "token_log_probs_and_entropies",
]
