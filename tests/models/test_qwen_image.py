"""`QwenImageTransformer2DModel` beside the reference: equal outputs for equal weights (fp32, 1e-5), equal names."""

import subprocess
import sys

import diffusers
import pytest
import torch
from benchmarks.counting import OpCount
from safetensors.torch import save_file

from calotype import ModelConfig, ModelPool
from calotype.errors import ConfigError, InputError, MissingInput, UnusedInput
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.nn.perturbation import Perturbation
from calotype.nn.streams import Condition, Patches, Words, references, residual
from models.small_qwen import BESIDE, DRAWN, SMALL, assert_equal, inputs, pair

LAYERED = {"use_additional_t_cond": True, "use_layer3d_rope": True}
PUBLISHED = {
    "Qwen-Image": {"pooled_projection_dim": 768, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56]},
    "Qwen-Image-Layered": LAYERED,
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("changes", "grids"),
    [
        ({}, [DRAWN]),
        ({}, [DRAWN, BESIDE, (1, 7, 2)]),
        ({"zero_cond_t": True}, [DRAWN]),
        ({"zero_cond_t": True}, [DRAWN, BESIDE, (1, 7, 2)]),
        (LAYERED, [DRAWN, DRAWN, DRAWN, BESIDE]),
        ({"out_channels": None}, [(2, 3, 3)]),
    ],
    ids=["picture", "references", "zero time, alone", "zero time", "layers", "frames"],
)
def test_equal_to_the_reference(changes, grids, batch, masked, grad):
    ours, theirs = pair(**changes)
    tokens, text = inputs(grids, batch)
    mask = torch.ones(batch, 7, dtype=torch.long) if masked else None
    if masked:
        mask[-1, 4:] = 0
        mask[0, 1] = 0
    more = {"additional_t_cond": torch.arange(batch)} if ours.config.use_additional_t_cond else {}
    for timestep in (torch.full((batch,), 0.3), torch.tensor([0.3]).expand(batch), torch.tensor([0.9, 0.01])[:batch]):
        arguments = {"img_shapes": [grids] * batch, **more}
        with torch.no_grad():
            expected = theirs(tokens, text, mask, timestep, **arguments).sample
        with torch.set_grad_enabled(grad):
            assert_equal(ours(tokens, text, mask, timestep, **arguments).sample, expected)


@torch.no_grad()
def test_residuals_of_a_controlnet_join_as_in_the_reference():
    ours, theirs = pair(num_layers=5)
    tokens, text = inputs([DRAWN], batch=2)
    arguments = {"timestep": torch.tensor([0.4, 0.4]), "img_shapes": [[DRAWN]] * 2}
    for count in (1, 2, 3, 5):
        samples = [torch.randn(2, 24, 48) for _ in range(count)]
        expected = theirs(tokens, text, controlnet_block_samples=samples, **arguments).sample
        assert_equal(ours(tokens, text, controlnet_block_samples=samples, **arguments).sample, expected)
    with pytest.raises(InputError, match="controlnet_block_samples"):
        ours(tokens, text, controlnet_block_samples=[], **arguments)


@torch.no_grad()
@pytest.mark.parametrize("zero", [False, True])
def test_a_loop_that_prepares_what_stays_gives_the_same_as_calls(zero):
    ours, _ = pair(zero_cond_t=zero)
    tokens, text = inputs([DRAWN, BESIDE], batch=2)
    drawn, beside = tokens[:, :24], tokens[:, 24:]
    ready = ours.prepare(text, [DRAWN], conditions=[references(Patches(beside, BESIDE))])
    times = torch.tensor([0.9, 0.5, 0.1])
    for time, ahead in zip(times, ours.modulate_ahead(times), strict=True):
        whole = ours(tokens, text, None, time, [[DRAWN, BESIDE]] * 2).sample[:, :24]
        torch.testing.assert_close(ours.predict(drawn, ours.modulate(time), ready), whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.predict(drawn, ahead, ready), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_kind_of_condition_that_nothing_knows_of_joins():
    ours, _ = pair()
    tokens, text = inputs([DRAWN])
    seen = []

    def brighter(block, drawn):
        seen.append((block, tuple(drawn.shape)))
        return 0.1 * drawn[:, :5] if block == 1 else None

    plain = ours.predict(tokens, ours.modulate(0.5), ours.prepare(text, [DRAWN]))
    ready = ours.prepare(text, [DRAWN], conditions=[residual(brighter)])
    assert not torch.allclose(ours.predict(tokens, ours.modulate(0.5), ready), plain, atol=1e-3)
    assert seen == [(block, (1, 24, 48)) for block in range(3)]

    def deaf(layout, own):
        sees = torch.ones(1, 31, 31, dtype=torch.bool)
        sees[:, 7:, :7] = False
        return sees

    one, other = (
        ours.predict(tokens, ours.modulate(0.5), ours.prepare(words, [DRAWN], conditions=[Condition(sight=deaf)]))
        for words in (text, torch.randn_like(text))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert not torch.allclose(one, plain, atol=1e-3)


@torch.no_grad()
def test_blocks_may_be_skipped_or_their_tokens_left_alone():
    ours, _ = pair()
    tokens, text = inputs([DRAWN], batch=2)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    time, ready = ours.modulate(0.5), ours.prepare(text, [DRAWN], mask)

    def given(kind, *layers):
        return ours.predict(tokens, time, ready, perturbation=Perturbation(kind, layers or None))

    shorter, _ = pair()
    del shorter.transformer_blocks[1]
    assert_equal(given("skip"), shorter.predict(tokens, time, shorter.prepare(text, [DRAWN], mask)))
    with pytest.raises(InputError, match="has 3 blocks, 0 to 2, and cannot perturb 3"):
        given("skip", 3)


@torch.no_grad()
def test_an_image_token_left_alone_sees_the_text_and_itself():
    """In the only block, so that nothing reaches it by way of the text."""
    ours, _ = pair(num_layers=1)
    tokens, text = inputs([DRAWN])
    ready, time = ours.prepare(text, [DRAWN]), ours.modulate(0.5)
    other = torch.randn_like(tokens)
    other[:, 5] = tokens[:, 5]
    one, two = (
        ours.predict(each, time, ready, perturbation=Perturbation("identity_attention", (0,)))[:, 5]
        for each in (tokens, other)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    assert not torch.allclose(one, ours.predict(tokens, time, ready)[:, 5], atol=1e-3)


def test_gradients_are_the_references_with_and_without_checkpointing():
    ours, theirs = pair(zero_cond_t=True)
    tokens, text = inputs([DRAWN, BESIDE])
    arguments = (tokens, text, None, torch.tensor([0.3]), [[DRAWN, BESIDE]])
    theirs(*arguments[:4], img_shapes=arguments[4]).sample.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for again in (False, True):
        ours.zero_grad()
        ours.gradient_checkpointing = again
        ours(*arguments).sample.square().mean().backward()
        for name, parameter in ours.named_parameters():
            if expected[name] is None:
                assert parameter.grad is None or not parameter.grad.any(), name
            else:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@torch.no_grad()
def test_half_precision_stays_near_and_finite():
    ours, _ = pair()
    tokens, text = inputs([DRAWN])
    expected = ours(tokens, text, None, 0.5, [[DRAWN]]).sample
    for dtype in (torch.bfloat16, torch.float16):
        half, _ = pair()
        got = half.to(dtype)(tokens.to(dtype), text.to(dtype), None, 0.5, [[DRAWN]]).sample
        assert got.dtype == dtype
        assert (got.float() - expected).abs().max() < 0.1 * expected.abs().max()


COMPILED = """
import torch
from calotype.models.qwen_image import QwenImageTransformer2DModel, parts
from calotype.nn.normalization import RMSNorm
torch.manual_seed(0)
network = QwenImageTransformer2DModel(
    in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3, joint_attention_dim=20,
    axes_dims_rope=(4, 6, 6),
).eval()
with torch.no_grad():
    tokens, time = torch.randn(1, 24, 16), network.modulate(0.5)
    ready = network.prepare(torch.randn(1, 7, 20), [(1, 4, 6)])
    compiled = torch.compile(network.predict, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, time, ready), network.predict(tokens, time, ready), rtol=0, atol=1e-5)
    parts.is_better_without_mask = lambda name, device: True
    ready = network.prepare(torch.randn(2, 7, 20), [(1, 4, 6)], torch.arange(7) < torch.tensor([[7], [4]]))
    assert ready.joint("sdpa", several_times=False).runs == ((1, 31), (1, 28))
    tokens = torch.randn(2, 24, 16)
    torch.testing.assert_close(compiled(tokens, time, ready), network.predict(tokens, time, ready), rtol=0, atol=1e-5)
    norm = RMSNorm(64)
    for values in (torch.randn(3, 64), torch.randn(3, 64).bfloat16()):
        torch.testing.assert_close(torch.compile(norm, backend="eager", fullgraph=True)(values), norm(values))
"""


def test_compiled_as_one_graph_it_gives_the_same():
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=120)


@torch.no_grad()
def test_a_network_that_was_made_longer_runs_all_of_its_blocks():
    """Whatever its configuration says: the text goes on until the last one."""
    longer, _ = pair(num_layers=4)
    ours, _ = pair()
    ours.load_state_dict({n: t for n, t in longer.state_dict().items() if "transformer_blocks" not in n}, strict=False)
    ours.transformer_blocks = longer.transformer_blocks
    given = (*inputs([DRAWN]), None, 0.5, [[DRAWN]])
    assert torch.equal(ours(*given).sample, longer(*given).sample)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_at_full_size(name):
    changes = PUBLISHED[name]
    known = {key: value for key, value in changes.items() if key != "pooled_projection_dim"}
    with torch.device("meta"):
        ours = QwenImageTransformer2DModel(**changes)
        theirs = diffusers.QwenImageTransformer2DModel(**known)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == expected
    assert sum(p.numel() for p in ours.parameters()) >= 20_430_000_000


def test_bad_configs_are_refused_by_name():
    with pytest.raises(ConfigError, match="axes_dims_rope must be even and together attention_head_dim 16"):
        QwenImageTransformer2DModel(**{**SMALL, "axes_dims_rope": (4, 4, 4)})
    with pytest.raises(ConfigError, match="guidance_embeds"):
        QwenImageTransformer2DModel(**SMALL, guidance_embeds=True)


@torch.no_grad()
def test_bad_inputs_are_refused_by_name():
    ours, _ = pair(num_layers=1)
    tokens, text = inputs([DRAWN], batch=2)
    good = {"timestep": 0.5, "img_shapes": [[DRAWN]] * 2}
    with pytest.raises(InputError, match="img_shapes must say"):
        ours(tokens, text, timestep=0.5)
    with pytest.raises(InputError, match="have 15 tokens, hidden_states 24"):
        ours(tokens, text, timestep=0.5, img_shapes=[[BESIDE]] * 2)
    with pytest.raises(InputError, match="same img_shapes"):
        ours(tokens, text, timestep=0.5, img_shapes=[[DRAWN], [(1, 6, 4)]])
    with pytest.raises(InputError, match="one for each of 2 items"):
        ours(tokens, text, timestep=torch.rand(3), img_shapes=[[DRAWN]] * 2)
    with pytest.raises(InputError, match="joint_attention_dim"):
        ours(tokens, text[..., :3], **good)
    with pytest.raises(UnusedInput, match="additional_t_cond"):
        ours(tokens, text, **good, additional_t_cond=torch.zeros(2, dtype=torch.long))
    with pytest.raises(MissingInput, match="additional_t_cond"):
        pair(**LAYERED)[0](tokens, text, **good)
    ready = ours.prepare(text, [DRAWN])
    with pytest.raises(InputError, match=r"tokens must be \[2, 24, 16\]"):
        ours.predict(tokens[:, 1:], ours.modulate(0.5), ready)
    with pytest.raises(InputError, match=r"tokens must be \[2, 24, 16\] as prepared, got \[2, 24, 12\]"):
        ours.predict(tokens[..., :12], ours.modulate(0.5), ready)
    with pytest.raises(InputError, match=r"one token at least, got \[2, 0, 20\]"):
        ours.prepare(text[:, :0], [DRAWN])
    with pytest.raises(InputError, match="a text has 7 hidden states, and its mask is of 3"):
        ours.prepare(text, [DRAWN], torch.tensor([[True, True, False]]))
    with pytest.raises(InputError, match=r"tokens of a picture .* must be 16 wide \(in_channels\), got 12"):
        ours.prepare(text, [DRAWN], conditions=[references(Patches(tokens[..., :12], DRAWN))])
    with pytest.raises(InputError, match=r"encoder_hidden_states .* must be 20 wide"):
        ours.prepare(text, [DRAWN], conditions=[Condition(texts=(Words(text[..., :3]),))])
    with pytest.raises(InputError, match="sageattention"):
        ours.predict(tokens, ours.modulate(0.5), ready, attention="sage")


@pytest.mark.parametrize("marked", [False, True])
def test_single_files_load_below_a_prefix_and_say_whether_references_have_the_time_zero(marked, tmp_path):
    ours, _ = pair(zero_cond_t=marked)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in ours.state_dict().items()}
    told = {"axes_dims_rope": (4, 6, 6), "use_layer3d_rope": False}
    if marked:
        tensors["model.diffusion_model.__index_timestep_zero__"] = torch.zeros(0)
    save_file(tensors, tmp_path / "single.safetensors")
    config = told if marked else {**told, "zero_cond_t": False}
    loaded = ModelPool(ModelConfig(path=tmp_path / "single.safetensors", config=config)).fetch_model(
        "qwen_image_transformer"
    )
    assert loaded.config.zero_cond_t is marked
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    if not marked:
        with pytest.raises(ConfigError, match="zero_cond_t"):
            ModelPool(ModelConfig(path=tmp_path / "single.safetensors", config=told)).fetch_model(
                "qwen_image_transformer"
            )


def test_folders_are_the_references_both_ways(tmp_path):
    ours, theirs = pair(zero_cond_t=True)
    ours.save_pretrained(tmp_path / "ours")
    again = diffusers.QwenImageTransformer2DModel.from_pretrained(tmp_path / "ours")
    assert again.config.zero_cond_t
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in again.state_dict().items())
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = QwenImageTransformer2DModel.from_pretrained(tmp_path / "theirs")
    assert loaded.config == ours.config
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@torch.no_grad()
def test_a_pass_dispatches_at_most_0_65_times_the_references_operations():
    ours, theirs = pair(num_layers=12)
    tokens, text = inputs([DRAWN])
    counts = []
    for network in (ours, theirs):
        network(
            tokens, text, None, torch.tensor([0.5]), img_shapes=[[DRAWN]]
        )  # the reference keeps tables from its first call
        with OpCount() as count:
            network(tokens, text, None, torch.tensor([0.5]), img_shapes=[[DRAWN]])
        counts.append(count.total)
    assert counts[0] <= 0.65 * counts[1]
