"""A ControlNet that looks at the transformer's own image tokens after each block, and at its control."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError
from calotype.models.qwen_image_blockwise_controlnet.config import QwenImageBlockwiseControlNetConfig
from calotype.nn.network import Network
from calotype.nn.normalization import RMSNorm
from calotype.nn.streams import Residual

_EPS = 1e-6


class ControlBlock(nn.Module):
    """From the tokens after one block, and the control's, to what is added to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms = RMSNorm(width, eps=_EPS)
        self.y_rms = RMSNorm(width, eps=_EPS)
        self.input_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"], unit: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """`unit` is the control, normalised but for the weight of `y_rms`."""
        both = self.x_rms(x) + unit * self.y_rms.weight
        out: Tensor = self.output_proj(functional.gelu(self.input_proj(both)))
        return out


class QwenImageBlockwiseControlNetModel(Network):
    """The ControlNet of DiffSynth-Studio's `Qwen-Image-Blockwise-ControlNet` repositories. Keywords: the fields of
    `QwenImageBlockwiseControlNetConfig`.

    The control stays the same from step to step: `prepare` it once, and give `residual` to the transformer.
    """

    Config = QwenImageBlockwiseControlNetConfig
    config: QwenImageBlockwiseControlNetConfig
    weights_name = "model.safetensors"

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        self.img_in = nn.Linear(config.in_dim + config.additional_in_dim, config.dim)
        self.controlnet_blocks = nn.ModuleList(ControlBlock(config.dim) for _ in range(config.num_layers))

    def prepare(self, control: Float[Tensor, "b n c"]) -> Float[Tensor, "b n w"]:
        """What all blocks make of the control, whose tokens are patches of its latents, and of a mask where there is.

        Raises:
            InputError: the tokens have another width.
        """
        if control.shape[-1] != self.img_in.in_features:
            raise InputError(f"tokens of the control must be {self.img_in.in_features} wide, got {control.shape[-1]}")
        whole: Tensor = self.img_in(control)
        return functional.rms_norm(whole, whole.shape[-1:], eps=_EPS)

    def residual(self, ready: Float[Tensor, "b n w"], scale: float = 1.0) -> Residual:
        """What a transformer's `predict` takes (`calotype.nn.streams`): the effect of a prepared control, scaled."""

        def add(block: int, drawn: Tensor) -> Tensor:
            more: Tensor = self(drawn.to(ready.dtype), ready, block)
            return more * scale

        return add

    def forward(
        self, drawn: Float[Tensor, "b n c"], ready: Float[Tensor, "#b m w"], block: int
    ) -> Float[Tensor, "b n c"]:
        """What is added to the drawn tokens after the block of that index.

        Raises:
            InputError: there is no such block, or the transformer has another width or number of tokens.
        """
        if not 0 <= block < len(self.controlnet_blocks):
            raise InputError(
                f"this ControlNet steers {len(self.controlnet_blocks)} blocks, 0 to {len(self.controlnet_blocks) - 1}, "
                f"and not block {block}"
            )
        if drawn.shape[-1] != self.config.dim:
            raise InputError(
                f"this ControlNet is for a transformer of the width {self.config.dim} (dim), got {drawn.shape[-1]}"
            )
        if drawn.shape[1] != ready.shape[1]:
            raise InputError(
                f"the control has {ready.shape[1]} tokens and the picture {drawn.shape[1]}; give it the picture's size"
            )
        out: Tensor = self.controlnet_blocks[block](drawn, ready)
        return out
