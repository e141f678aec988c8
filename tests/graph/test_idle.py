"""Components that a unit only looks at, for their configuration."""

import pytest
from torch import Tensor

from calotype.errors import ComponentNotLoaded
from calotype.graph.hints import Settings
from calotype.graph.inputs import Inputs
from calotype.graph.run import Run
from calotype.graph.unit import unit
from calotype.sampling import Denoise, Scheduler
from stubs import Encoder, Net, TextInputs, define, embeds, image, latents, noise, sigmas, velocity


@unit
def count(*, net: Settings[Net]) -> int:
    return net.weight.numel()


@unit
def told(count: int, *, net: Settings[Net], encoder: Encoder) -> str:
    return f"{count} and {encoder.weight.numel()}"


def test_they_are_not_brought_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = define(count, told, inputs=Inputs, net=Net, encoder=Encoder)(net=Net(), encoder=Encoder())
    held: list[set[str]] = []
    monkeypatch.setattr(Run, "hold", lambda run, names: held.append(set(names)) or _Nothing())
    assert pipe().told == "1 and 1"
    assert held == [set(), {"encoder"}]


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_a_plan_does_not_count_them() -> None:
    pipe = define(count, inputs=Inputs, net=Net)(net=Net())
    plan = pipe.plan()
    assert plan.components == () and plan.bytes == 0 and "uses" not in str(plan)
    small = define(count, inputs=Inputs, net=Net)(net=Net(), memory=1, device="cpu")
    assert small().count == 1  # the network alone is larger than the budget


def test_they_must_be_loaded_all_the_same() -> None:
    with pytest.raises(ComponentNotLoaded, match="count needs component 'net'"):
        define(count, inputs=Inputs, net=Net)()()


def test_training_them_does_not_concern_the_unit() -> None:
    @unit
    def doubled(embeds: Tensor, *, net: Settings[Net]) -> Tensor:
        return embeds

    units = (embeds, doubled.renamed(doubled="embeds"), noise, sigmas, latents, Denoise(velocity), image)
    cls = define(*units, inputs=TextInputs, encoder=Encoder, net=Net, scheduler=Scheduler)
    assert cls.split("net").cached == ("embeds", "doubled", "sigmas")
