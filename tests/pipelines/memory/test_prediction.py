"""The predicted peak of a plan against what the call then holds."""

from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import DDPMPipeline, DDPMScheduler, DiffusionPipeline, Inputs, UNet2DModel, takes, unit
from calotype.graph.calls import read_call
from calotype.graph.planning import make_plan
from calotype.graph.run import Run
from calotype.memory.peak import watched
from calotype.pipelines.memory.prediction import Unmoved, predict_peak


@pytest.fixture(scope="module")
def ddpm() -> DDPMPipeline:
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(), device="cpu")


def weights_of(pipe: DiffusionPipeline) -> int:
    modules = [c for c in pipe.components.values() if isinstance(c, torch.nn.Module)]
    return sum(t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers()))


@pytest.mark.parametrize("images", [1, 3])
def test_prediction_meets_the_measured_peak(ddpm: DDPMPipeline, images: int) -> None:
    predicted = ddpm.plan(num_images=images, num_inference_steps=3).predicted_peak
    with watched() as watch:
        ddpm(num_images=images, num_inference_steps=3, seed=0)
    assert predicted is not None
    assert 0.97 < (predicted - weights_of(ddpm)) / watch.peak < 1.03


def test_prediction_computes_nothing(ddpm: DDPMPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []

    def spy(self: UNet2DModel, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(sample))
        return forward(self, sample, *args, **kwargs)

    forward = UNet2DModel.forward
    monkeypatch.setattr(UNet2DModel, "forward", spy)
    assert ddpm.plan(num_inference_steps=1000).predicted_peak is not None
    assert [kind.__name__ for kind in seen] == ["FakeTensor"] * 2


def test_a_budget_bounds_the_weights(ddpm: DDPMPipeline) -> None:
    def rehearsal() -> Run:
        plan = make_plan(ddpm.graph, read_call(ddpm.Inputs, {"num_inference_steps": 2, "seed": 0}), ddpm.components)
        return Run(ddpm.graph, plan, ddpm.components, dict.fromkeys(ddpm.components, 0), None, Unmoved())

    whole = predict_peak(rehearsal(), ddpm.components, None)
    half = predict_peak(rehearsal(), ddpm.components, weights_of(ddpm) // 2)
    assert whole is not None and half is not None
    assert whole - half == weights_of(ddpm) - weights_of(ddpm) // 2


class CountInputs(Inputs):
    count: int = 3


@unit
def values(count: int) -> Tensor:
    return torch.arange(count)


@unit
def total(values: Tensor) -> int:
    return int(values.sum())


@unit
def answer(total: int) -> int:
    return total + 1


@unit(impure=True)
def noted(values: Tensor) -> Tensor:
    raise AssertionError("a prediction must not run an impure unit")


class Count(DiffusionPipeline):
    units = (values, total, answer)
    __call__ = takes(CountInputs)


class Noted(DiffusionPipeline):
    units = (values, noted)
    __call__ = takes(CountInputs)


def test_a_unit_that_asks_for_the_data_cannot_be_predicted() -> None:
    assert Count().plan().predicted_peak is None
    assert "predicted peak" not in str(Count().plan())


def test_an_impure_unit_is_not_rehearsed() -> None:
    assert Noted().plan().predicted_peak is None
