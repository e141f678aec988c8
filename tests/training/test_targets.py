"""What is trained: gradients of low-rank changes against the reference, and files that others load."""

from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
from torch import nn

import tiny_sd
from calotype import StableDiffusionPipeline
from calotype.errors import ComponentError, ConfigError
from calotype.training.lowrank import LowRankLayer, attach_trained
from calotype.training.targets import FullWeights, LowRankChange
from training.small import small


def layers(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "linear":
        return nn.Linear(6, 5), torch.randn(3, 6)
    return nn.Conv2d(4, 5, 3, padding=1, stride=2), torch.randn(3, 4, 8, 8)


def fill(change: LowRankLayer, theirs: Any) -> None:
    """Factors and magnitudes of our change as the reference's layer has them."""
    with torch.no_grad():
        change.down.copy_(theirs.lora_A["default"].weight)
        change.up.copy_(theirs.lora_B["default"].weight.flatten(1))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_outputs_and_gradients_are_those_of_peft(kind: str, dora: bool) -> None:
    layer, x = layers(kind)
    plain = nn.Sequential(layer)
    ours, handle = LowRankLayer(layer, 2, 3.0, dora=dora, dropout=0.0, draw=torch.Generator()), None
    out = plain(x).detach()
    handle = attach_trained(layer, ours)
    torch.testing.assert_close(plain(x), out)  # nothing was learned yet
    handle.remove()

    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"], init_lora_weights=False, use_dora=dora)
    theirs = peft.get_peft_model(nn.Sequential(layer), config)
    inner = theirs.base_model.model[0]
    wanted = theirs(x)
    wanted.square().sum().backward()
    fill(ours, inner)
    if dora:
        with torch.no_grad():
            ours.magnitude.copy_(inner.lora_magnitude_vector["default"].weight.flatten())
    base = inner.base_layer
    handle = attach_trained(base, ours)
    found = base(x)
    found.square().sum().backward()
    handle.remove()

    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pairs = [(ours.down, inner.lora_A["default"].weight), (ours.up, inner.lora_B["default"].weight)]
    if dora:
        pairs.append((ours.magnitude, inner.lora_magnitude_vector["default"].weight))
    for own, other in pairs:
        torch.testing.assert_close(own.grad, other.grad.view_as(own), rtol=1e-5, atol=1e-5)


def test_a_change_in_half_precision_has_float32_factors() -> None:
    layer = nn.Linear(6, 5).to(torch.bfloat16)
    change = LowRankLayer(layer, 2, 2.0, dora=True, dropout=0.0, draw=torch.Generator())
    handle = attach_trained(layer, change)
    out = layer(torch.randn(3, 6, dtype=torch.bfloat16))
    out.float().sum().backward()
    handle.remove()
    assert out.dtype == torch.bfloat16
    assert change.down.grad.dtype == change.up.grad.dtype == torch.float32


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    return reference, tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))


def learned(pipe: Any, **fields: Any) -> Any:
    """A low-rank change of the tiny network with factors as if it had been trained."""
    trained = LowRankChange(component="unet", rank=2, alpha=3.0, **fields).put(pipe, seed=0)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return trained


@pytest.mark.parametrize("dora", [False, True])
def test_what_was_learned_loads_in_the_reference_and_here(pipes: tuple[Any, Any], dora: bool, tmp_path: Path) -> None:
    """The output with the change as it is trained, loaded again from each spelling, and in the reference."""
    reference, pipe = pipes
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 16)
    trained = learned(pipe, dora=dora, formats=("diffusers", "kohya", "peft"))
    with torch.no_grad():
        wanted = pipe.unet(x, 300, text).sample
    files = trained.save(tmp_path)
    trained.remove()
    with torch.no_grad():
        plain = pipe.unet(x, 300, text).sample
    assert (wanted - plain).abs().max() > 1e-2
    assert [path.name for path in files] == [
        "pytorch_lora_weights.safetensors", "kohya.safetensors", "adapter_model.safetensors",
    ]  # fmt: skip
    for path in files:
        pipe.load_adapter(path, "learned")
        with torch.no_grad():
            torch.testing.assert_close(pipe.unet(x, 300, text).sample, wanted, rtol=1e-4, atol=1e-4)
        pipe.unload_adapter("learned")
    reference.load_lora_weights(str(files[0].parent), weight_name=files[0].name)
    with torch.no_grad():
        torch.testing.assert_close(reference.unet(x, 300, text).sample, wanted, rtol=1e-4, atol=1e-4)
    reference.unload_lora_weights()
    theirs = peft.PeftModel.from_pretrained(reference.unet, str(files[2].parent))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, 300, text).sample, wanted, rtol=1e-4, atol=1e-4)
    theirs.unload()


def test_kohya_keys_load_in_the_reference_too(pipes: tuple[Any, Any], tmp_path: Path) -> None:
    """The layout that ComfyUI reads."""
    reference, pipe = pipes
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 16)
    trained = learned(pipe, formats=("kohya",))
    with torch.no_grad():
        wanted = pipe.unet(x, 300, text).sample
    (file,) = trained.save(tmp_path)
    trained.remove()
    reference.load_lora_weights(str(tmp_path), weight_name=file.name)
    with torch.no_grad():
        torch.testing.assert_close(reference.unet(x, 300, text).sample, wanted, rtol=1e-4, atol=1e-4)
    reference.unload_lora_weights()


def test_only_the_chosen_parameters_are_trained() -> None:
    pipe = small()
    trained = FullWeights(component="net", only=r"^blocks\.", result="component").put(pipe, seed=0)
    assert set(trained.parameters) == {f"blocks.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}
    assert not pipe.net.out.weight.requires_grad


def test_other_values_are_in_place_for_a_while_only() -> None:
    trained = FullWeights(component="net", result="component").put(small(), seed=0)
    before = {name: p.detach().clone() for name, p in trained.parameters.items()}
    with trained.swapped({name: torch.zeros_like(value) for name, value in before.items()}):
        assert all((p == 0).all() for p in trained.parameters.values())
    assert all(torch.equal(p, before[name]) for name, p in trained.parameters.items())


def test_a_narrow_layer_has_a_lower_rank_and_the_same_scale() -> None:
    trained: Any = LowRankChange(component="net", rank=6, alpha=3.0, layers="(into|to_q)").put(small(), seed=0)
    assert {name: len(c.down) for name, c in trained.changes.items()} == {"into": 3, "to_q": 5}
    assert {c.scale for c in trained.changes.values()} == {0.5}


def test_wrong_targets_are_refused() -> None:
    with pytest.raises(ComponentError, match="there is no network 'nets' to train; did you mean 'net'"):
        FullWeights(component="nets").put(small(), seed=0)
    with pytest.raises(ConfigError, match="no layer of 'net' matches"):
        LowRankChange(component="net", layers="to_x").put(small(), seed=0)
    with pytest.raises(ConfigError, match="kohya's names have no place for 'net'"):
        LowRankChange(component="net", layers="to_q", formats=("kohya",)).put(small(), seed=0)
    with pytest.raises(ConfigError, match="is not a regular expression"):
        FullWeights(component="net", only="(").put(small(), seed=0)
    pipe = small()
    pipe.net.to(torch.float16)
    with pytest.raises(ComponentError, match=r"'net' is torch\.float16, whose steps are too coarse"):
        FullWeights(component="net").put(pipe, seed=0)


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv2d(4, 4, 3, padding=1)], ids=["linear", "conv"])
def test_dropout_leaves_the_frozen_weight_of_dora_alone(layer: nn.Module) -> None:
    change = LowRankLayer(layer, 2, 2.0, dora=True, dropout=0.5, draw=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change.magnitude.mul_(2.0)
        bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None]
        torch.testing.assert_close(change.added(layer, x, layer(x)), 2.0 * (layer(x) - bias) + bias)
