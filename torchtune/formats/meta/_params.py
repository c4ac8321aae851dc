"""The params.json of Meta's checkpoints: Llama 2, Code Llama, Llama 3 to 3.3.

The keys and their defaults match `ModelArgs`, and the feed-forward width is computed as in `FeedForward`, in
`llama/model.py` of https://github.com/meta-llama/llama and `llama_models/llama3/` of
https://github.com/meta-llama/llama-models.
"""

from pathlib import Path
from typing import Any

from attrs import field, frozen

from torchtune.files import read_json
from torchtune.models.llama2 import code_llama_7b, llama2_7b
from torchtune.models.llama3 import llama3_1_8b, llama3_2_1b, llama3_8b
from torchtune.modules import Architecture

FILE = "params.json"

_INTEGERS = ("dim", "n_layers", "n_heads", "multiple_of", "n_kv_heads", "vocab_size")
_FLOATS = ("norm_eps", "rope_theta", "ffn_dim_multiplier")
_REQUIRED = ("dim", "n_layers", "n_heads", "multiple_of", "norm_eps")

_UPPER_BOUND = 2**31
"""Upper bound of all numbers: torch cannot represent the matrices of larger models."""

_WITHOUT_SCALING = {
    a.flat()["rope_base"]: a for a in (b.architecture for b in (llama2_7b, llama3_8b, code_llama_7b))
}
"""Models, keyed by rope_theta; they define the maximum sequence length, which Meta's files do not contain.
LLaMA 1 (2048 tokens) cannot be distinguished from Llama 2 (4096 tokens)."""

_WITH_SCALING = {False: llama3_1_8b.architecture, True: llama3_2_1b.architecture}
"""Models with scaled RoPE, keyed by whether embeddings are tied. Meta's code uses a factor of 8 for all of them, but
the config.json of models with tied embeddings has 32."""


@frozen(kw_only=True)
class MetaParams:
    """The content of params.json."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    multiple_of: int
    norm_eps: float
    vocab_size: int | None = None
    """None: the number of rows of the embeddings."""
    ffn_dim_multiplier: float = 1.0
    rope_theta: float = field(default=10_000.0, converter=float)
    use_scaled_rope: bool = False

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """The inner width of the feed-forward layers."""
        width = int(self.ffn_dim_multiplier * int(2 * 4 * self.dim / 3))
        return -(-width // self.multiple_of) * self.multiple_of

    def architecture(self, vocab_size: int, *, tied_embeddings: bool) -> Architecture:
        """Return the architecture of the decoder.

        Args:
            vocab_size: Number of rows of the embedding table.
            tied_embeddings: Whether the output head is the embedding table. Among models with scaled RoPE, only Llama
                3.2 1B and 3B have tied embeddings.

        Raises:
            ValueError: `n_kv_heads` does not divide `n_heads`, or the width of a head is odd.
        """
        model = _WITH_SCALING[tied_embeddings] if self.use_scaled_rope else _WITHOUT_SCALING[self.rope_theta]
        return Architecture.from_values(
            vocab_size=vocab_size,
            num_layers=self.n_layers,
            embed_dim=self.dim,
            num_heads=self.n_heads,
            num_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            ffn_dim=self.ffn_dim,
            max_seq_len=model.max_seq_len,
            rope_base=self.rope_theta,
            norm_eps=self.norm_eps,
            tied_embeddings=tied_embeddings,
            rope_scaling=model.flat()["rope_scaling"],
        )


def read_params(folder: Path) -> MetaParams:
    """Read a folder's params.json.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or incomplete, or its model is not supported.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {FILE} in {folder}; expected it next to consolidated.00.pth, as in Meta's checkpoints"
        )
    values = {key: value for key, value in read_json(path).items() if value is not None}
    unknown = sorted(values.keys() - {*_INTEGERS, *_FLOATS, "use_scaled_rope"})
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        raise ValueError(
            f"{path}: {', '.join(unknown)} {verb} not supported; expected an unquantized text model of Llama 2, Code"
            " Llama or Llama 3 to 3.3"
        )
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; download it again")
    if values.get("vocab_size") == -1:  # Llama 2, where the tokenizer defines it
        del values["vocab_size"]
    _check_values(path, values)
    values.setdefault("n_kv_heads", values["n_heads"])
    params = MetaParams(**values)
    if params.ffn_dim >= _UPPER_BOUND:
        raise ValueError(
            f"{path}: dim, multiple_of and ffn_dim_multiplier result in a feed-forward width of {params.ffn_dim:,},"
            " which is too large; the file is damaged: download it again"
        )
    return params


def _check_values(path: Path, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if key == "use_scaled_rope":
            is_valid, expected = isinstance(value, bool), "true or false"
        else:
            types, kind = ((int,), "a whole number") if key in _INTEGERS else ((int, float), "a number")
            is_valid = type(value) in types and 0 < value < _UPPER_BOUND
            expected = f"{kind} above 0 and below 2**31"
        if not is_valid:
            raise ValueError(f"{path}: {key} is {value!r}; expected {expected}")
    if values["dim"] % values["n_heads"]:
        raise ValueError(f"{path}: dim = {values['dim']} is not a multiple of n_heads = {values['n_heads']}")
    theta = values.get("rope_theta", 10_000.0)
    if not values.get("use_scaled_rope") and theta not in _WITHOUT_SCALING:
        known_bases = ", ".join(f"{base:,.0f}" for base in sorted(_WITHOUT_SCALING))
        raise ValueError(
            f"{path}: rope_theta is {theta:,}, for which the maximum sequence length is unknown; expected one of"
            f" {known_bases}"
        )
