"""A text as the network's layers see it, computed once for all steps of a call."""

from dataclasses import dataclass

from calotype.nn.transformer import KeysAndValues


@dataclass(frozen=True, eq=False)
class ProjectedText:
    """The keys and values of a text in every layer that attends to it, in the order of the layers.

    `UNet2DConditionModel.project_text` makes one, and the network takes it in place of the hidden states: the text
    does not change from step to step, so neither do they. It is valid for the network that made it, with the weights
    that it then had.
    """

    layers: tuple[KeysAndValues, ...]
    batch: int
