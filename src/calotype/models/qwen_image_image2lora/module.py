"""A network whose output is an adapter: of a picture's features, the low-rank changes of a transformer's layers."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.qwen_image_image2lora.config import QwenImageImage2LoRAConfig
from calotype.nn.network import Network

RESIDUAL_SCALE = 0.05
"""What hidden states are multiplied by."""

Pair: TypeAlias = tuple[Tensor, Tensor]
"""The change of one layer: `down [r, in]`, then `up [out, r]`."""


class _Target(NamedTuple):
    """A layer of a block of the transformer, by name; its inputs and outputs in widths of a token."""

    name: str
    inputs: int = 1
    outputs: int = 1


_TARGETS = (
    (_Target("attn.to_q"), _Target("attn.to_k"), _Target("attn.to_v"), _Target("attn.to_out.0")),
    (_Target("img_mlp.net.2", inputs=4), _Target("img_mod.1", outputs=6)),
    (_Target("attn.add_q_proj"), _Target("attn.add_k_proj"), _Target("attn.add_v_proj"), _Target("attn.to_add_out")),
    (_Target("txt_mlp.net.2", inputs=4), _Target("txt_mod.1", outputs=6)),
)
"""Four parts of each block, for all blocks one part after the other: the image's attention and the rest, the text's."""


class Compressed(nn.Module):
    """To a few numbers and from them to many: `residual` is added to the few."""

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, middle, bias=False)
        self.proj_out = nn.Linear(middle, out, bias=False)

    def forward(self, x: Float[Tensor, " c"], residual: Float[Tensor, " middle"] | None) -> Float[Tensor, " out"]:
        few: Tensor = self.proj_in(x)
        out: Tensor = self.proj_out(few if residual is None else few + residual)
        return out


class LayerFactors(nn.Module):
    """The factors of one layer's change."""

    def __init__(self, config: QwenImageImage2LoRAConfig, target: _Target) -> None:
        super().__init__()
        self.rank = config.rank
        widths = (target.inputs * config.dim, target.outputs * config.dim)
        self.proj_a = Compressed(config.in_dim, config.compress_dim, widths[0] * config.rank)
        self.proj_b = Compressed(config.in_dim, config.compress_dim, widths[1] * config.rank)

    def forward(self, x: Float[Tensor, " c"], residual: Float[Tensor, " middle"] | None) -> Pair:
        return self.proj_a(x, residual).view(self.rank, -1), self.proj_b(x, residual).view(-1, self.rank)


class HiddenStates(nn.Module):
    """Hidden states, in their order, to what is added where features are compressed."""

    def __init__(self, config: QwenImageImage2LoRAConfig) -> None:
        super().__init__()
        self.proj_in = nn.Linear(config.residual_dim, config.residual_mid_dim, bias=False)
        self.proj_out = nn.Linear(config.residual_length * config.residual_mid_dim, config.compress_dim, bias=False)

    def forward(self, states: Float[Tensor, "l d"]) -> Float[Tensor, " middle"]:
        out: Tensor = self.proj_out(self.proj_in(states).flatten())
        return out


class PartFactors(nn.Module):
    """The changes of some layers of one block."""

    def __init__(self, config: QwenImageImage2LoRAConfig, targets: tuple[_Target, ...], block: int) -> None:
        super().__init__()
        self.names = tuple(f"transformer_blocks.{block}.{target.name}" for target in targets)
        self.layers = nn.ModuleList(LayerFactors(config, target) for target in targets)
        self.proj_residual = HiddenStates(config) if config.use_residual else None

    def forward(self, x: Float[Tensor, " c"], states: Float[Tensor, "l d"] | None) -> Iterator[tuple[str, Pair]]:
        residual = None if self.proj_residual is None else self.proj_residual(states)
        for name, layer in zip(self.names, self.layers, strict=True):
            yield name, layer(x, residual)


class QwenImageImage2LoRAModel(Network):
    """The network of DiffSynth-Studio's `Qwen-Image-i2L`: of one picture, an adapter of the transformer. Keywords: the
    fields of `QwenImageImage2LoRAConfig`."""

    Config = QwenImageImage2LoRAConfig
    config: QwenImageImage2LoRAConfig
    weights_name = "model.safetensors"

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        self.blocks = nn.ModuleList(
            PartFactors(config, targets, block) for targets in _TARGETS for block in range(config.num_blocks)
        )

    def forward(
        self, features: Float[Tensor, " c"], residual: Float[Tensor, "l d"] | None = None
    ) -> Mapping[str, Pair]:
        """The change of every layer by its name in the transformer: `down [r, in]` and `up [out, r]`, whose product
        `up @ down` is added to the weight.

        Args:
            features: of the picture, of both encoders one after the other.
            residual: its hidden states from the text encoder, for networks with `use_residual`.

        Raises:
            InputError: a width or the number of hidden states is another than the network's.
            MissingInput, UnusedInput: hidden states are missing, or were given to a network that sees none.
        """
        self._check(features, residual)
        states = None if residual is None else residual.to(self.dtype) * RESIDUAL_SCALE
        x = features.to(self.dtype)
        return {name: pair for block in self.blocks for name, pair in block(x, states)}

    def _check(self, features: Tensor, residual: Tensor | None) -> None:
        config, name = self.config, type(self).__name__
        if features.shape != (config.in_dim,):
            raise InputError(f"features for this {name} must be [{config.in_dim}] (in_dim), got {list(features.shape)}")
        if residual is None and config.use_residual:
            raise MissingInput(f"this {name} needs the picture's hidden states (use_residual); give residual=")
        if residual is not None and not config.use_residual:
            raise UnusedInput(f"residual was given, but this {name} sees none (use_residual is false); leave it out")
        wanted = (config.residual_length, config.residual_dim)
        if residual is not None and residual.shape != wanted:
            raise InputError(f"residual for this {name} must be {list(wanted)}, got {list(residual.shape)}")
