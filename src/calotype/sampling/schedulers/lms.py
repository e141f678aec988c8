"""The linear multistep method for diffusion models."""

from typing import Any

from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.schedulers.fields import PredictionType, Ramped, Spaced, Training
from calotype.sampling.schedulers.training import NoiseOverSignalWithState
from calotype.sampling.solvers.lms import Lms
from calotype.sampling.stateful import Generators


class LMSConfig(Training, Ramped, Spaced):
    """The ecosystem's configuration of the linear multistep method."""

    prediction_type: PredictionType = "epsilon"


class LMSDiscreteScheduler(NoiseOverSignalWithState):
    """k-diffusion's linear multistep method of order 4, with the ecosystem's keywords and defaults."""

    Config = LMSConfig
    config: LMSConfig
    solver: Lms

    def _compose(self) -> None:
        super()._compose()
        self.solver = Lms()

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        order: int = 4,
    ) -> Any:
        """One step from `timestep`, as `HeunDiscreteScheduler.step`.

        Raises:
            InputError: `order` is another than 4; for one, give `solver=Lms(order)` to `schedule`.
        """
        if order != self.solver.order:
            raise InputError(
                f"order is {self.solver.order} here, got {order}; use schedule(steps, solver=Lms({order}))"
            )
        return super().step(model_output, timestep, sample, generator, return_dict)
