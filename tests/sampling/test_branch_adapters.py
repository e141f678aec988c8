"""Branches of guidance on which some of the loop's adapters run, and others that all run on."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.small import diffusers_keys, factors, random, written
from calotype import Branch, DiffusionPipeline, NoGuidance, Step
from calotype.errors import InputError

CALL = {"prompt": "a red apple", "seed": 7, "steps": 3}
PARTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")


@dataclass(frozen=True)
class Away:
    """What all adapters predict, away from what some of them do."""

    scale: float
    adapters: tuple[str, ...] = ()

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (Branch("positive"), Branch("without", adapters=self.adapters))

    def active(self, step: Step) -> tuple[str, ...]:
        return ("positive", "without")

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        without = predictions["without"]
        return without + self.scale * (predictions["positive"] - without)


@pytest.fixture(scope="module")
def shared() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)


@pytest.fixture
def pipe(shared: Any, tmp_path: Path) -> Any:
    """The embedded model with the adapters a and b, and without them when a test ends."""
    made = type(shared)(**{name: shared.components[name] for name in PARTS}, device="cpu")
    for rank, name in ((2, "a"), (3, "b")):
        keys = diffusers_keys(factors(made.transformer, rank, seed=rank, size=0.02), "transformer")
        made.load_adapter(written(tmp_path / f"{name}.safetensors", keys))
    made.set_adapters({"a": 0.8, "b": 0.5})
    yield made
    if any(info.fused for info in made.adapters.values()):
        made.unfuse_adapters()
    made.unload_adapter()


def latents(pipe: Any, guidance: Any) -> Tensor:
    found: Tensor = pipe(**CALL, guidance=guidance, outputs=("latents",)).latents
    return found


@pytest.mark.parametrize("names", [(), ("a",), ("b",), ("a", "b")])
def test_a_branch_runs_the_adapters_that_it_names_alone(pipe: Any, names: tuple[str, ...]) -> None:
    """With a scale of 0 the branch is all that counts."""
    found = latents(pipe, Away(0.0, names))
    all_run = latents(pipe, NoGuidance())
    pipe.set_adapters({name: {"a": 0.8, "b": 0.5}[name] for name in names})
    wanted = latents(pipe, NoGuidance())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (names == ("a", "b")) == torch.allclose(found, all_run, rtol=1e-3, atol=1e-3)


def test_other_branches_run_all_of_them(pipe: Any) -> None:
    torch.testing.assert_close(latents(pipe, Away(1.0)), latents(pipe, NoGuidance()), rtol=1e-4, atol=1e-4)


def test_calls_of_other_threads_do_not_see_it(pipe: Any) -> None:
    policies = [Away(0.0), NoGuidance(), Away(0.0, ("a",))] * 2
    alone = [latents(pipe, policy) for policy in policies[:3]] * 2
    found: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: latents(pipe, policies[n])})) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], alone[number]) for number in range(6))


def test_what_cannot_run_alone_is_refused(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"asks for the adapter 'bb' on the branch 'without'.*those that run are a, b"):
        latents(pipe, Away(2.0, ("bb",)))
    pipe.set_adapters({"a": 1.0})
    with pytest.raises(InputError, match=r"the adapter 'b' .* no such adapter runs; those that run are a"):
        latents(pipe, Away(2.0, ("b",)))
    pipe.fuse_adapters()
    with pytest.raises(InputError, match="'a' cannot be left out for a branch: it is fused"):
        latents(pipe, Away(2.0))
    pipe.unfuse_adapters()
    layer = pipe.transformer.proj_out
    whole = {"w1": random(1, 1, seed=1), "w2": random(*layer.weight.shape, seed=2)}
    keys = {f"lora_unet_proj_out.lokr_{name}": part for name, part in whole.items()}
    pipe.load_adapter(written(tmp_path / "whole.safetensors", keys))
    with pytest.raises(InputError, match="'whole' cannot be left out"):
        latents(pipe, Away(2.0))
