"""A step cache that goes by the first block of a network."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from calotype.nn.reuse import BlockPass
from calotype.sampling.caching.policy import StepCache, change, check_threshold
from calotype.sampling.step import Step


@dataclass(frozen=True)
class FirstBlockCache(StepCache):
    """Runs the first block of a network at every step, and the rest where the first one's share has changed.

    What the other blocks add is taken over while what the first one adds is near to what it added at the last step that
    computed: their difference, in L1 norms, is below `threshold` times the latter. Of a network whose blocks are not
    residual, such as a U-Net, the maps themselves are compared and taken over.

    Source: Chen, "First Block Cache", published with ParaAttention, 2024; for U-Nets, where the outer layers always
    run, Ma et al., "DeepCache: Accelerating Diffusion Models for Free", 2023, section 3.2.

    Attributes:
        threshold: 0 or more; 0 takes nothing over.

    Raises:
        InputError: a value is out of range.
    """

    threshold: float = 0.1

    skips_first: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold("FirstBlockCache", self.threshold)

    def sign(self, blocks: BlockPass[Any], hidden: Tensor | None) -> Tensor | None:
        assert hidden is not None, "the first part runs before this is asked"
        return hidden if blocks.start is None else hidden - blocks.start

    def judge(self, step: Step, sign: Tensor | None, state: Any) -> tuple[bool, Any]:
        assert sign is not None
        return change(sign, state) < self.threshold, state

    def renewed(self, step: Step, sign: Tensor | None, state: Any) -> Any:
        return sign
