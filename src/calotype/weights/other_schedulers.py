"""Schedulers of diffusers that calotype does not have: what samples the same networks, for messages."""

from collections.abc import Mapping

CLOSEST: Mapping[str, str] = {
    "LTXEulerAncestralRFScheduler": "FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)",
    "MiniMaxH3Scheduler": "FlowMatchEulerDiscreteScheduler(shift=12.0)",
    "RePaintScheduler": "DDPMScheduler(...)",
    "UnCLIPScheduler": 'DDPMScheduler(beta_schedule="squaredcos_cap_v2", ...)',
}
"""A scheduler -> one that calotype has for networks that are trained the same way, by another method."""

UNLIKE = frozenset({
    "AmusedScheduler", "BlockRefinementScheduler", "CMStochasticIterativeScheduler", "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler", "ConsistencyDecoderScheduler", "DDPMWuerstchenScheduler", "DiscreteDDIMScheduler",
    "EntropyBoundScheduler", "FlowMapEulerDiscreteScheduler", "HeliosDMDScheduler", "HeliosScheduler",
    "IPNDMScheduler", "KarrasVeScheduler", "PiflowScheduler", "RFD4ProteinaScheduler", "SCMScheduler",
    "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "VQDiffusionScheduler",
})  # fmt: skip
"""Schedulers for networks that are trained in a way of their own, for which calotype has none."""


def instead_of(library: str, name: str) -> str:
    """What to give in the place of a scheduler that an index names and calotype does not have; empty for any other."""
    if library != "diffusers" or name not in {*CLOSEST, *UNLIKE}:
        return ""
    if name in CLOSEST:
        return (
            f"which calotype does not have; give scheduler={CLOSEST[name]}, which samples such networks by another "
            "method, with the fields of its scheduler_config.json that both have"
        )
    return (
        "which calotype does not have, nor one for networks that are trained for it; where these are not, give "
        "scheduler= one that they are trained for (docs/samplers.md)"
    )
