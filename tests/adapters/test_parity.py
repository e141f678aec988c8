"""The same files in PEFT and in diffusers: equal outputs, in both directions."""

import copy

import diffusers
import pytest
import torch
from torch import nn

import tiny_sd
from adapters.small import diffusers_keys, factors, kohya_keys, random, written
from calotype import StableDiffusionPipeline, StableDiffusionXLPipeline
from calotype.adapters.formats import read_adapter
from calotype.adapters.host import AdapterHost, Loaded, change_host
from calotype.adapters.names import layers_of, original_names
from calotype.adapters.place import placed

peft = pytest.importorskip("peft", minversion="0.17")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
CALL = {"prompt": "a cat", "num_inference_steps": 3}
TOLERANCE = 2e-4


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(6, 8), nn.Conv2d(4, 6, 3, padding=1, stride=2)

    def forward(self, x, y):
        return self.linear(x), self.conv(y)


KINDS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=["linear", "conv"]),
    "root": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, init_lora_weights=False, target_modules=["linear", "conv"]
    ),
    "patterns": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, init_lora_weights=False, target_modules=["linear", "conv"], rank_pattern={"conv": 2},
        alpha_pattern={"conv": 7},
    ),
    "biases": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, lora_bias=True, init_lora_weights=False, target_modules=["linear", "conv"]
    ),
    "DoRA": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, use_dora=True, init_lora_weights=False, target_modules=["linear", "conv"]
    ),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=5, init_weights=False, target_modules=["linear", "conv"]),
    "LoHa of kernels": lambda: peft.LoHaConfig(
        r=3, alpha=5, init_weights=False, use_effective_conv2d=True, target_modules=["linear", "conv"]
    ),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=5, init_weights=False, target_modules=["linear", "conv"]),
    "LoKr of two": lambda: peft.LoKrConfig(
        r=1, alpha=5, init_weights=False, decompose_both=True, use_effective_conv2d=True,
        target_modules=["linear", "conv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_peft_saves_does_what_peft_does(kind, tmp_path):
    torch.manual_seed(0)
    base, x, y = Layers(), random(3, 6, seed=1), random(2, 4, 8, 8, seed=2)
    theirs = peft.get_peft_model(copy.deepcopy(base), KINDS[kind]()).eval()
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:
            parameter.mul_(1.3)
        if "lora_B" in name and name.endswith("bias"):
            parameter.normal_()
    theirs.save_pretrained(tmp_path)
    expected = theirs(x, y)
    file = read_adapter(tmp_path / "adapter_model.safetensors")
    changes = placed(file, {"unet": base})["unet"]
    assert set(changes) == {"linear", "conv"}
    plain = base(x, y)
    change_host(base, lambda host: host.add("a", Loaded(changes, ""), 1.0))
    for fuse in (False, True):
        if fuse:
            change_host(base, AdapterHost.fuse)
        for found, wanted, without in zip(base(x, y), expected, plain, strict=True):
            assert (wanted - without).abs().max() > 0.01
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture
def both(tmp_path):
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    return reference, tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipeline")


def text_pairs(reference, seed):
    return {f"text_model.{name}": pair for name, pair in factors(reference.text_encoder, 2, seed=seed).items()}


def assert_same_pictures(reference, pipe, plain):
    expected = tiny_sd.theirs(reference, **CALL)
    found = tiny_sd.ours(pipe, **CALL, seed=tiny_sd.SEED)
    assert (expected[0] - plain[0]).abs().max() > 0.05
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < TOLERANCE * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("spelling", ["diffusers", "kohya"])
def test_two_adapters_with_weights_as_in_diffusers(both, tmp_path, spelling):
    reference, pipe = both
    plain = tiny_sd.theirs(reference, **CALL)
    made = {rank: (factors(reference.unet, rank, seed=rank), text_pairs(reference, rank)) for rank in (2, 3)}
    for name, rank in (("a", 2), ("b", 3)):
        pairs, text = made[rank]
        pairs = {n: p for n, p in pairs.items() if "attentions" in n or "conv1" in n}
        if spelling == "diffusers":
            keys = diffusers_keys(pairs) | diffusers_keys(text, "text_encoder")
        else:
            pairs = {n: p for n, p in pairs.items() if "transformer_blocks" in n}
            keys = kohya_keys(pairs, alpha=1.5) | kohya_keys(text, "lora_te_", alpha=1.0)
        path = written(tmp_path / f"{name}.safetensors", keys)
        reference.load_lora_weights(str(path), adapter_name=name)
        pipe.load_adapter(path, name)
    reference.set_adapters(["a", "b"], [0.8, 0.5])
    pipe.set_adapters(["a", "b"], [0.8, 0.5])
    assert_same_pictures(reference, pipe, plain)
    reference.set_adapters(["b"], [1.2])
    pipe.set_adapters({"b": 1.2})
    assert_same_pictures(reference, pipe, plain)


def test_what_diffusers_saves_and_what_it_reads_of_ours(both, tmp_path):
    reference, pipe = both
    plain = tiny_sd.theirs(reference, **CALL)
    reference.unet.add_adapter(
        peft.LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v", "conv1"])
    )

    state = peft.get_peft_model_state_dict(reference.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path / "theirs", unet_lora_layers=state,
        unet_lora_adapter_metadata=reference.unet.peft_config["default"].to_dict(),
    )  # fmt: skip
    pipe.load_adapter(tmp_path / "theirs")
    assert_same_pictures(reference, pipe, plain)
    reference.unet.delete_adapters("default")
    for number, form in enumerate(("diffusers", "kohya")):
        path = pipe.save_adapter(tmp_path / f"{form}.safetensors", format=form)
        reference.load_lora_weights(str(path), adapter_name=f"a{number}")
        reference.set_adapters([f"a{number}"], [1.0])
        assert_same_pictures(reference, pipe, plain)


def test_the_original_layout_as_in_diffusers(tmp_path):
    reference = tiny_sd.reference_xl(diffusers.StableDiffusionXLPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionXLPipeline, reference, tmp_path / "pipeline")
    plain = tiny_sd.theirs(reference, **CALL)
    names = list(layers_of(pipe.unet))
    pairs = {n: p for n, p in factors(reference.unet, 2, seed=1).items() if "transformer_blocks" in n}
    original = {theirs: pairs[name] for theirs, name in original_names(names) if name in pairs}
    path = written(tmp_path / "a.safetensors", kohya_keys(original, alpha=1.0))
    reference.load_lora_weights(str(path), adapter_name="a")
    pipe.load_adapter(path)
    assert_same_pictures(reference, pipe, plain)
