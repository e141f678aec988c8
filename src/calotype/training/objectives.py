"""Every objective, by the `kind` that a file calls it. Without one it is `denoising`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from calotype.training.distillation import DirectDistillation, TrajectoryImitation
from calotype.training.distribution import DistributionMatching
from calotype.training.objective import Denoising
from calotype.training.preference import Preference


def _kind(value: Any) -> Any:
    return value.get("kind", "denoising") if isinstance(value, Mapping) else getattr(value, "kind", None)


AnyObjective = Annotated[
    Annotated[Denoising, Tag("denoising")]
    | Annotated[Preference, Tag("preference")]
    | Annotated[DirectDistillation, Tag("direct_distillation")]
    | Annotated[TrajectoryImitation, Tag("trajectory_imitation")]
    | Annotated[DistributionMatching, Tag("distribution_matching")],
    Discriminator(_kind),
]
