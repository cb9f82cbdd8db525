"""A model's shape, from its config.json or by a known name, and the work of training it. Knows nothing of torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_assets.base_model.tiny import architecture
from gpu_assets.errors import ArtifactInvalid

CONFIG_FILE = "config.json"

_QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
KNOWN: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "qwen3", **architecture()},
    "qwen3-0.6b": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-4b": _QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}
"""Values of config.json by name, for plans and benchmarks without a model folder."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder of the Llama family: grouped-query attention and a gated MLP in every layer."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    qk_norm: bool
    qkv_bias: bool

    @classmethod
    def of_config(cls, config: dict[str, Any], name: str) -> "ModelShape":
        """The shape that a config.json gives.

        Raises:
            ArtifactInvalid: if a size is missing, as in other families.
        """
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            return cls(
                vocabulary=int(config["vocab_size"]),
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                tied=bool(config.get("tie_word_embeddings", False)),
                qk_norm=config.get("model_type") == "qwen3",
                qkv_bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactInvalid(
                f"{name} has no usable {error}: its shape is not that of a Llama-like model"
            ) from None

    @classmethod
    def read(cls, folder: Path) -> "ModelShape":
        """The shape of a model folder.

        Raises:
            ArtifactInvalid: if its config.json is missing, not JSON, or of another family.
        """
        path = folder / CONFIG_FILE
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactInvalid(f"{path} cannot be read: {error}") from None
        return cls.of_config(config, str(path))

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's matrices: q, k, v, o, gate, up, down."""
        hidden, wide, mlp = self.hidden, self.attention_width, self.intermediate
        return (
            (hidden, wide),
            (hidden, self.kv_width),
            (hidden, self.kv_width),
            (wide, hidden),
            (hidden, mlp),
            (hidden, mlp),
            (mlp, hidden),
        )

    @property
    def matrix_parameters(self) -> int:
        """Of all layers' matrices: what Muon takes, and what LoRA adapts."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.layer_matrices)

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        biases = self.attention_width + 2 * self.kv_width if self.qkv_bias else 0
        return self.embedding_parameters + self.matrix_parameters + self.layers * (norms + biases) + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Of adapters of this rank on every layer's matrices."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.layer_matrices)

    def training_flops(self, lengths: Sequence[int], supervised: int, *, adapters: bool = False) -> float:
        """Floating-point operations that forward and backward of these documents need.

        6 a matrix parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), 4 where the matrices are
        frozen; the head on supervised tokens only; and 12 x layers x width x length a token for attention
        (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), halved since no token sees those after it. Padding and
        recomputation are no needed work and are not counted.

        Args:
            lengths: tokens of each document; attention does not cross them.
            supervised: tokens whose loss is taken.
            adapters: only LoRA's weights are trained.
        """
        matrices = self.matrix_parameters * sum(lengths) + self.vocabulary * self.hidden * supervised
        pairs = sum(length * (length + 1) for length in lengths)
        return (4.0 if adapters else 6.0) * matrices + 6.0 * self.layers * self.attention_width * pairs
