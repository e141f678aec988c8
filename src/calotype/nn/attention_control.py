"""Looking into the attention of a network during one forward pass, and altering it.

A control enters with the call, as `attention=` of a network's `forward`, and lies nowhere else: networks that many
calls share stay as they are.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class AttentionSite(NamedTuple):
    """Which attention of a network is controlled.

    Attributes:
        layer: the layer's name among the network's modules, such as `"blocks.2"`.
        height, width: the map whose pixels ask, row by row.
        words: how many of the keys, the last ones, are the text's tokens; the others are pixels.
    """

    layer: str
    height: int
    width: int
    words: int


class Heads(NamedTuple):
    """What a layer attends with: queries [b, heads, n, c], keys and values [b, heads, m, c].

    `bias` says what may be seen (bool), or is added to the scores; it expands to [b, heads, n, m]. None is everything.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    def seeing(self, seen: Bool[Tensor, "#b #h #n #m"]) -> "Heads":
        """The same where only this is seen, of what was. Every query must keep something to see."""
        bias = self.bias
        if bias is None:
            return self._replace(bias=seen)
        return self._replace(bias=bias & seen if bias.dtype == torch.bool else bias.masked_fill(~seen, -torch.inf))


class AttentionControl:
    """What observes and alters attention; derived classes override what they need. One serves one forward pass.

    The rows of the batch are those that the network was called with.

    Attributes:
        by_head: `probabilities` does to each head what it would do if there were no other, so that a memory budget may
            have it called for a few heads at a time.
    """

    by_head: ClassVar[bool] = False

    def heads(self, site: AttentionSite, heads: Heads) -> Heads:
        """Queries, keys, values and what may be seen, before a layer attends. More keys go before those that are there,
        so that the words stay the last ones."""
        return heads

    def watches(self, site: AttentionSite) -> bool:
        """Whether `probabilities` is called for a layer. It is slower there, and holds one number for each pair."""
        return False

    def probabilities(self, site: AttentionSite, probabilities: Float[Tensor, "b h n m"]) -> Float[Tensor, "b h n m"]:
        """How much each query takes of each value: a row adds up to 1."""
        return probabilities


def controlled(controls: Sequence[AttentionControl], site: AttentionSite, heads: Heads) -> Float[Tensor, "b h n c"]:
    """What a layer attends to under controls, one after the other."""
    for control in controls:
        heads = control.heads(site, heads)
    watching = [control for control in controls if control.watches(site)]
    if not watching:
        return scaled_dot_product_attention(heads.queries, heads.keys, heads.values, attn_mask=heads.bias)
    if not all(control.by_head for control in watching):
        return _watched(watching, site, heads)
    return _together([_watched(watching, site, part) for part in _parts(heads)])


def attended_plainly(
    queries: Float[Tensor, "b h n c"], keys: Tensor, values: Tensor, bias: Tensor | None
) -> Float[Tensor, "b h n c"]:
    """What a layer attends to by plain mathematics: all scores at once, or a few heads at a time where a memory budget
    has it so."""
    parts = _parts(Heads(queries, keys, values, bias))
    return _together([shares(part).to(part.values.dtype) @ part.values for part in parts])


def _parts(heads: Heads) -> list[Heads]:
    """The heads as many at a time as this thread takes them: mostly all."""
    from calotype.nn.attention_parts import head_parts, is_in_parts  # only what is watched has scores

    if not is_in_parts():
        return [heads]
    batch, count, queries, _ = heads.queries.shape
    return [_of(heads, part) for part in head_parts(count, batch * queries * heads.keys.shape[-2])]


def _together(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _watched(controls: Sequence[AttentionControl], site: AttentionSite, heads: Heads) -> Float[Tensor, "b h n c"]:
    """What a layer attends to by the shares that controls make of its own."""
    probabilities = shares(heads)
    for control in controls:
        probabilities = control.probabilities(site, probabilities)
    return probabilities.to(heads.values.dtype) @ heads.values


def _of(heads: Heads, part: slice) -> Heads:
    """Some of the heads."""
    bias = heads.bias if heads.bias is None or heads.bias.shape[1] == 1 else heads.bias[:, part]
    return Heads(heads.queries[:, part], heads.keys[:, part], heads.values[:, part], bias)


def shares(heads: Heads) -> Float[Tensor, "b h n m"]:
    """How much each query takes of each value, in float32."""
    queries, keys, _, bias = heads
    scores = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.float()
    return torch.softmax(scores, dim=-1)
