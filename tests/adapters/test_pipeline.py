"""Adapters of a pipeline: the embedded model draws something else with one, and the very same without it."""

import copy
import hashlib
import threading

import pytest
import torch
from PIL import ImageChops

from adapters.small import diffusers_keys, factors, kohya_keys, peft_folder, product, random, same, weights_of, written
from calotype import DiffusionPipeline
from calotype.adapters.host import AdapterHost, host_of
from calotype.adapters.layers import DOWN
from calotype.errors import ComponentError, InputError, RepositoryError, WeightsError
from calotype.graph.unit import unit
from calotype.pipelines.replay.again import replay
from calotype.pipelines.replay.recipe import Recipe, read_recipe

CALL = {"prompt": "a red apple", "seed": 7, "steps": 4}
PARTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")


@pytest.fixture(scope="module")
def shared():
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)


@pytest.fixture
def pipe(shared):
    """The embedded model, with a memo of its own and without adapters when a test ends."""
    made = type(shared)(**{name: shared.components[name] for name in PARTS}, device="cpu")
    made._source = shared._source
    yield made
    if any(info.fused for info in made.adapters.values()):
        made.unfuse_adapters()
    if made.adapters:
        made.unload_adapter()


@pytest.fixture(scope="module")
def files(shared, tmp_path_factory):
    """Two adapters of the transformer, and one of both networks."""
    folder = tmp_path_factory.mktemp("adapters")
    a, b = (factors(shared.transformer, rank, seed=rank, size=0.02) for rank in (2, 3))
    text = factors(shared.text_encoder, 2, seed=5, size=0.05)
    both = diffusers_keys(a, "transformer") | diffusers_keys(text, "text_encoder")
    return {
        "a": written(folder / "a.safetensors", diffusers_keys(a, "transformer")),
        "b": written(folder / "b.safetensors", kohya_keys(b, alpha=3)),
        "both": written(folder / "both.safetensors", both),
        "peft": peft_folder(folder / "peft", a, r=2, lora_alpha=2),
    }


def drawn(pipe, **more):
    return pipe(**{**CALL, **more}).image


def latents(pipe):
    return pipe(**CALL, outputs=("latents",)).latents


def test_a_file_changes_the_picture_and_leaves_no_trace(pipe, files):
    before, plain = weights_of(pipe.transformer), drawn(pipe)
    info = pipe.load_adapter(files["a"])
    assert (info.name, info.weights, info.fused) == ("a", {"transformer": 1.0}, False)
    assert info.digest == hashlib.sha256(files["a"].read_bytes()).hexdigest()
    other = drawn(pipe)
    assert ImageChops.difference(plain, other).getbbox() is not None
    assert same(pipe.transformer, before)
    pipe.unload_adapter("a")
    assert pipe.adapters == {} and same(pipe.transformer, before)
    assert drawn(pipe).tobytes() == plain.tobytes()


def test_fused_is_as_hot_and_unfused_is_as_before(pipe, files):
    before, plain = weights_of(pipe.transformer), latents(pipe)
    pipe.load_adapter(files["a"])
    pipe.load_adapter(files["b"])
    pipe.set_adapters({"a": 0.8, "b": 0.5})
    hot = latents(pipe)
    assert (hot - plain).abs().max() > 0.1
    pipe.fuse_adapters()
    assert {name: info.fused for name, info in pipe.adapters.items()} == {"a": True, "b": True}
    assert (latents(pipe) - hot).abs().max() < 1e-4
    assert not same(pipe.transformer, before)
    pipe.unfuse_adapters()
    assert same(pipe.transformer, before) and torch.equal(latents(pipe), hot)
    pipe.unload_adapter()
    assert same(pipe.transformer, before) and torch.equal(latents(pipe), plain)


def test_the_spellings_are_one_adapter(pipe, files):
    pipe.load_adapter(files["a"])
    expected = latents(pipe)
    pipe.unload_adapter()
    assert pipe.load_adapter(files["peft"]).name == "peft"
    assert torch.equal(latents(pipe), expected)


def test_what_was_remembered_of_another_adapter_is_not_taken(pipe, files):
    """The memo holds what text encoders made; only who changed is asked again."""
    plain = drawn(pipe)
    hits = pipe.memo_info.hits
    assert drawn(pipe).tobytes() == plain.tobytes() and pipe.memo_info.hits > hits
    pipe.load_adapter(files["both"])
    with_text = drawn(pipe)
    pipe.set_adapters({"both": {"transformer": 1.0}})
    without_text = drawn(pipe)
    assert len({plain.tobytes(), with_text.tobytes(), without_text.tobytes()}) == 3
    pipe.set_adapters({"both": 1.0})
    assert drawn(pipe).tobytes() == with_text.tobytes()
    hits = pipe.memo_info.hits
    assert drawn(pipe).tobytes() == with_text.tobytes() and pipe.memo_info.hits > hits


def test_loading_for_later_changes_nothing(pipe, files):
    plain = drawn(pipe)
    pipe.load_adapter(files["a"], weight=0)
    assert drawn(pipe).tobytes() == plain.tobytes() and pipe(**CALL).recipe.adapters == ()
    assert all(DOWN not in layer._buffers for layer in pipe.transformer.modules())


def test_names_and_weights_as_two_lists(pipe, files):
    pipe.load_adapter(files["a"])
    pipe.load_adapter(files["both"], "two")
    pipe.set_adapters(["a", "two"], [0.25, 0.5])
    weights = {name: info.weights for name, info in pipe.adapters.items()}
    assert weights == {"a": {"transformer": 0.25}, "two": {"transformer": 0.5, "text_encoder": 0.5}}
    pipe.set_adapters("two")
    assert pipe.adapters["a"].weights == {"transformer": 0.0}
    assert pipe.adapters["two"].weights == {"transformer": 1.0, "text_encoder": 1.0}


def test_pipelines_that_share_a_component_share_its_adapters(pipe, files):
    @unit
    def shout(prompt: str) -> str:
        return prompt

    other = pipe.with_units([shout])
    plain = drawn(other)
    pipe.load_adapter(files["a"])
    assert list(other.adapters) == ["a"] and drawn(other).tobytes() != plain.tobytes()
    other.unload_adapter("a")
    assert pipe.adapters == {} and drawn(pipe).tobytes() == plain.tobytes()


def test_another_network_has_none(pipe, files, shared):
    pipe.load_adapter(files["a"])
    fresh = DiffusionPipeline.from_pretrained("calotype/emoji-64", only=["transformer"], device="cpu").transformer
    kept, pipe.transformer = pipe.transformer, fresh
    assert pipe.adapters == {}
    pipe.transformer = kept
    assert list(pipe.adapters) == ["a"]


def test_a_plan_counts_what_runs_beside_the_weights(pipe, files):
    before = pipe.plan(**CALL)
    peak = before.predicted_peak
    pipe.load_adapter(files["a"])
    plan = pipe.plan(**CALL)
    stack = sum(t.nbytes for layer in pipe.transformer.modules() for n, t in layer._buffers.items() if "adapter" in n)
    assert plan.sizes["transformer"] - before.sizes["transformer"] == stack > 0
    assert plan.predicted_peak - peak >= stack


def test_from_a_hub_with_its_configuration_and_nothing_else(pipe, files, hub):
    folder = files["peft"]
    repository = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("someone/wobbly", {**repository, "README.md": b"a card", "training_args.bin": b"PK"})
    info = pipe.load_adapter("someone/wobbly")
    assert info.name == "wobbly" and info.digest == hashlib.sha256(repository["adapter_model.safetensors"]).hexdigest()
    fetched = {line.rpartition("/")[2].rpartition(" ")[2] for line in hub.downloads()}
    assert fetched == {"adapter_model.safetensors", "adapter_config.json"}
    with pytest.raises(RepositoryError, match=r"someone/wobbly has no file other\.safetensors"):
        pipe.load_adapter("someone/wobbly", "b", filename="other.safetensors")


def test_all_components_get_an_adapter_or_none(pipe, files, monkeypatch):
    plain, add, asked = drawn(pipe), AdapterHost.add, []

    def full(host, *args):
        asked.append(host)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("no room")
        add(host, *args)

    monkeypatch.setattr(AdapterHost, "add", full)
    with pytest.raises(torch.OutOfMemoryError):
        pipe.load_adapter(files["both"])
    assert len(asked) == 2 and pipe.adapters == {} and drawn(pipe).tobytes() == plain.tobytes()


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_a_recipe_names_what_ran_and_replays_with_it_alone(pipe, files, tmp_path):
    pipe.load_adapter(files["a"], weight=0.5)
    pipe.load_adapter(files["b"], weight=0.0)
    result = pipe(**CALL)
    result.save(tmp_path / "apple.png")
    recipe = read_recipe(tmp_path / "apple.png")
    [record] = recipe.adapters
    assert (record.component, record.name, record.weight, record.fused) == ("transformer", "a", 0.5, False)
    assert record.digest == hashlib.sha256(files["a"].read_bytes()).hexdigest()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert replay(tmp_path / "apple.png", pipe=pipe).identical

    said = r"made with the adapters 'a' \(transformer, at 0.5, SHA-256 .*\); this TextToImagePipeline runs "
    pipe.set_adapters({"a": 0.6})
    with pytest.raises(ComponentError, match=said + r"'a' \(transformer, at 0.6"):
        replay(tmp_path / "apple.png", pipe=pipe)
    pipe.set_adapters({"b": 0.5})
    with pytest.raises(ComponentError, match=said + r"'b' \(transformer, at 0.5"):
        replay(tmp_path / "apple.png", pipe=pipe)
    pipe.unload_adapter()
    with pytest.raises(ComponentError, match=said + "none"):
        replay(tmp_path / "apple.png", pipe=pipe)
    with pytest.raises(ComponentError, match=said + "none"):
        replay(tmp_path / "apple.png")
    pipe.load_adapter(files["a"], "other name", weight=0.5)
    assert replay(tmp_path / "apple.png", pipe=pipe).identical


def test_a_picture_without_adapters_is_not_replayed_with_one(pipe, files, tmp_path):
    pipe(**CALL).save(tmp_path / "apple.png")
    pipe.load_adapter(files["a"])
    with pytest.raises(ComponentError, match="made with the adapters none; this TextToImagePipeline runs 'a'"):
        replay(tmp_path / "apple.png", pipe=pipe)


def test_fused_replays_fused(pipe, files, tmp_path):
    pipe.load_adapter(files["a"])
    pipe.fuse_adapters()
    pipe(**CALL).save(tmp_path / "apple.png")
    assert replay(tmp_path / "apple.png", pipe=pipe).identical
    pipe.unfuse_adapters()
    with pytest.raises(ComponentError, match="at 1, fused"):
        replay(tmp_path / "apple.png", pipe=pipe)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_not_saved_without_what_runs_beside_it(pipe, files, tmp_path):
    pipe.load_adapter(files["a"])
    with pytest.raises(ComponentError, match=r"'a' would not be in what is saved; call fuse_adapters\(\)"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    pipe.fuse_adapters()
    fused = latents(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert torch.equal(latents(again), fused) and again.adapters == {}


@pytest.mark.parametrize(("form", "where"), [("diffusers", "x.safetensors"), ("kohya", "y"), ("peft", "z")])
def test_saved_in_every_spelling(pipe, files, tmp_path, form, where):
    pipe.load_adapter(files["b"], weight=0.7)
    expected = latents(pipe)
    path = pipe.save_adapter(tmp_path / where, format=form)
    assert path.is_file() and path.is_relative_to(tmp_path / where)
    pipe.unload_adapter()
    pipe.load_adapter(tmp_path / where if where != "y" else path, "again", weight=0.7)
    assert (latents(pipe) - expected).abs().max() < 1e-5


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_names(pipe, files):
    pipe.load_adapter(files["a"])
    with pytest.raises(InputError, match="an adapter 'a' is loaded already; unload it first, or give name="):
        pipe.load_adapter(files["b"], "a")
    with pytest.raises(InputError, match="there is no adapter 'aa'; did you mean 'a'"):
        pipe.set_adapters({"aa": 1})
    with pytest.raises(InputError, match="there is no adapter 'x'; loaded are a"):
        pipe.unload_adapter("x")
    with pytest.raises(InputError, match="the adapter 'a' changes transformer, not 'unet'"):
        pipe.set_adapters({"a": {"unet": 1.0}})
    with pytest.raises(InputError, match="2 names and 1 weights"):
        pipe.set_adapters(["a", "b"], [1.0])
    with pytest.raises(InputError, match="a mapping of names to weights, or names and adapter_weights"):
        pipe.set_adapters({"a": 1.0}, [1.0])
    assert pipe.adapters["a"].weights == {"transformer": 1.0}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, True])
def test_weights(pipe, files, weight):
    with pytest.raises(InputError, match="must be a finite number, got"):
        pipe.load_adapter(files["a"], weight=weight)
    assert pipe.adapters == {}


def test_order(pipe, files):
    with pytest.raises(InputError, match="there is no adapter that runs"):
        pipe.fuse_adapters()
    with pytest.raises(InputError, match="no adapter is fused"):
        pipe.unfuse_adapters()
    pipe.load_adapter(files["a"])
    pipe.fuse_adapters()
    for change in (
        lambda: pipe.load_adapter(files["b"]),
        lambda: pipe.set_adapters({"a": 0.5}),
        lambda: pipe.unload_adapter("a"),
        pipe.fuse_adapters,
    ):
        with pytest.raises(ComponentError, match=r"of transformer are fused; call unfuse_adapters\(\) first"):
            change()


def test_files(pipe, files, tmp_path):
    with pytest.raises(RepositoryError, match="there is no file"):
        pipe.load_adapter(tmp_path / "nothing.safetensors")
    (tmp_path / "old.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(RepositoryError, match="is a pickle, which can run code"):
        pipe.load_adapter(tmp_path / "old.bin")
    with pytest.raises(RepositoryError, match="is a pickle, which can run code"):
        pipe.load_adapter(tmp_path)
    for name in ("one", "two"):
        written(tmp_path / f"{name}.safetensors", {"x": torch.ones(1)})
    with pytest.raises(RepositoryError, match=r"several files .*; write filename='one.safetensors'"):
        pipe.load_adapter(tmp_path)
    with pytest.raises(RepositoryError, match=r"no file ones\.safetensors; did you mean 'one.safetensors'"):
        pipe.load_adapter(tmp_path, filename="ones.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(files["a"].read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cut short"):
        pipe.load_adapter(tmp_path / "cut.safetensors")
    assert pipe.load_adapter(files["a"].parent, filename="a.safetensors").name == "a"


def test_saving_what_is_not_there(pipe, files, tmp_path):
    with pytest.raises(InputError, match="name which adapter to save; loaded are none"):
        pipe.save_adapter(tmp_path)
    pipe.load_adapter(files["both"])
    with pytest.raises(WeightsError, match="PEFT's file is for one network, the adapter changes"):
        pipe.save_adapter(tmp_path / "peft", format="peft")
    with pytest.raises(InputError, match=r"format must be one of .*, got 'kohia'; did you mean 'kohya'"):
        pipe.save_adapter(tmp_path / "x", format="kohia")
    with pytest.raises(InputError, match="not 'vae'"):
        pipe.save_adapter(tmp_path / "x", component="vae")
    with pytest.raises(InputError, match="PEFT reads a folder"):
        pipe.save_adapter(tmp_path / "x.safetensors", format="peft", component="text_encoder")
    assert list(tmp_path.iterdir()) == []
    assert pipe.save_adapter(tmp_path / "peft", format="peft", component="text_encoder").is_file()


def test_a_component_in_use_is_not_changed(pipe, files):
    refused = []

    def meanwhile(*_):
        with pytest.raises(ComponentError, match="transformer cannot be changed while a call uses it") as raised:
            pipe.load_adapter(files["a"])
        refused.append(raised)

    plain = drawn(pipe)
    handle = pipe.transformer.register_forward_hook(meanwhile)
    assert drawn(pipe).tobytes() == plain.tobytes() and len(refused) >= CALL["steps"]
    handle.remove()
    assert pipe.adapters == {}


def test_a_call_is_not_half_with_one_adapter_and_half_with_another(pipe, files):
    plain = drawn(pipe)
    with pipe.stream(**CALL) as stream:
        next(stream)
        pipe.load_adapter(files["a"])
        with pytest.raises(ComponentError, match="the adapters of 'transformer' were changed after this call began"):
            stream.finish()
    with pipe.stream(**CALL) as stream:
        next(stream)
        pipe.unload_adapter("a")
        pipe.load_adapter(files["a"], "the same again")
        pipe.unload_adapter()
        with pytest.raises(ComponentError, match="after this call began"):
            stream.finish()
    with pipe.stream(**CALL) as stream:
        next(stream)
        pipe.load_adapter(files["a"])
        pipe.unload_adapter("a")
        assert stream.finish().image.tobytes() == plain.tobytes()


def test_calls_of_many_threads_agree(pipe, files):
    pipe.load_adapter(files["a"])
    pipe.load_adapter(files["b"], weight=0.5)
    expected, found = drawn(pipe).tobytes(), []
    threads = [threading.Thread(target=lambda: found.append(drawn(pipe).tobytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_trained_in_a_few_steps_and_loaded(pipe, tmp_path):
    """A pair of factors for one layer, fitted with plain torch, does from its file what it learned."""
    layer = pipe.transformer.get_submodule("proj_out")
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(64, layer.in_features, generator=generator)
    wanted = (layer(rows) + rows[:, :1]).detach()
    down = (torch.randn(1, layer.in_features, generator=generator) * 0.1).requires_grad_()
    up = torch.zeros(layer.out_features, 1).requires_grad_()
    optimizer, losses = torch.optim.Adam([down, up], lr=0.02), []
    for _ in range(100):
        loss = (layer(rows) + rows @ down.t() @ up.t() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    keys = diffusers_keys({"proj_out": (down.detach(), up.detach())}, "transformer")
    plain = drawn(pipe)
    pipe.load_adapter(written(tmp_path / "learned.safetensors", keys))
    assert ImageChops.difference(plain, drawn(pipe)).getbbox() is not None
    with torch.no_grad():
        assert float((layer(rows) - wanted).square().mean()) <= losses[-1] * 1.01


@pytest.mark.parametrize("biased", [False, True])
def test_full_differences_run_beside_the_weights_and_fused_as_weights_that_have_them(shared, pipe, tmp_path, biased):
    layers = {
        name: layer
        for name, layer in shared.transformer.named_modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    }
    diffs = {name: random(*layer.weight.shape, seed=n) * 0.01 for n, (name, layer) in enumerate(layers.items())}
    biases = {
        name: random(len(layer.bias), seed=n) * 0.1 for n, (name, layer) in enumerate(layers.items())
        if layer.bias is not None and biased
    }  # fmt: skip
    assert biased is bool(biases)
    names = {f"lora_transformer_{name.replace('.', '_')}.diff": diff for name, diff in diffs.items()}
    names |= {f"lora_transformer_{name.replace('.', '_')}.diff_b": diff for name, diff in biases.items()}
    state = {f"{name}.weight": layer.weight + 0.5 * diffs[name] for name, layer in layers.items()}
    state |= {f"{name}.bias": layers[name].bias + 0.5 * diff for name, diff in biases.items()}
    changed = copy.deepcopy(shared)
    changed.transformer.load_state_dict(state, strict=False)
    call = {"prompt": "a red apple", "steps": 1, "seed": 1, "outputs": ["latents"]}
    wanted = changed(**call).latents
    assert (wanted - pipe(**call).latents).abs().max() > 0.01
    pipe.load_adapter(written(tmp_path / "whole.safetensors", names), "whole", weight=0.5)
    assert pipe.adapters["whole"].layers == {"transformer": len(diffs)}
    torch.testing.assert_close(pipe(**call).latents, wanted, rtol=1e-4, atol=1e-5)
    before = weights_of(pipe.transformer)
    pipe.fuse_adapters()
    torch.testing.assert_close(pipe(**call).latents, wanted, rtol=1e-4, atol=1e-5)
    pipe.unfuse_adapters()
    assert same(pipe.transformer, before)
    pipe.save_adapter(tmp_path / "again.safetensors", "whole", format="kohya")
    pipe.unload_adapter()
    pipe.load_adapter(tmp_path / "again.safetensors", weight=0.5)
    torch.testing.assert_close(pipe(**call).latents, wanted, rtol=1e-4, atol=1e-5)


def test_a_pair_beside_a_difference_of_its_bias_runs_on_every_branch(shared, pipe, tmp_path):
    (name, layer), *_ = (
        (n, m) for n, m in shared.transformer.named_modules()
        if isinstance(m, torch.nn.Linear) and m.bias is not None
    )  # fmt: skip
    pairs = {name: (random(2, layer.in_features, seed=1), random(layer.out_features, 2, seed=2))}
    stem = f"lora_transformer_{name.replace('.', '_')}"
    keys = {**kohya_keys(pairs, "lora_transformer_", alpha=2.0), f"{stem}.diff_b": torch.ones(layer.out_features)}
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a", weight=0.5)
    rows = random(3, layer.in_features, seed=3)
    with torch.no_grad():
        found = pipe.transformer.get_submodule(name)(rows)
        wanted = torch.nn.functional.linear(rows, layer.weight + 0.5 * product(pairs[name]), layer.bias + 0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert host_of(pipe.transformer).inseparable == ("a",)
    with pytest.raises(WeightsError, match="has a difference of its bias, for which the files of diffusers"):
        pipe.save_adapter(tmp_path / "b.safetensors", "a")


def test_differences_of_biases_that_do_not_fit_are_refused(pipe, tmp_path):
    (name, layer), *_ = (
        (n, m) for n, m in pipe.transformer.named_modules()
        if isinstance(m, torch.nn.Linear) and m.bias is not None
    )  # fmt: skip
    stem = f"lora_transformer_{name.replace('.', '_')}"
    keys = {f"{stem}.diff": torch.zeros(layer.weight.shape), f"{stem}.diff_b": torch.zeros(3)}
    with pytest.raises(WeightsError, match=rf"difference of the bias of .* is \[3\] of .* expected {len(layer.bias)}"):
        pipe.load_adapter(written(tmp_path / "a.safetensors", keys))
    keys[f"{stem}.diff_b"] = torch.zeros(len(layer.bias))
    pipe.transformer = copy.deepcopy(pipe.transformer)
    pipe.transformer.get_submodule(name).bias = None
    with pytest.raises(WeightsError, match=r"changes the bias of transformer.* which has none"):
        pipe.load_adapter(written(tmp_path / "b.safetensors", keys))


def test_full_differences_have_no_alpha(shared, pipe, tmp_path):
    keys = {"lora_transformer_x.diff": torch.ones(2, 2)}
    with pytest.raises(InputError, match="alpha=2 has no effect"):
        pipe.load_adapter(written(tmp_path / "a.safetensors", keys), alpha=2.0)
    with pytest.raises(WeightsError, match="is a full difference and has an alpha"):
        pipe.load_adapter(written(tmp_path / "b.safetensors", {**keys, "lora_transformer_x.alpha": torch.tensor(1.0)}))
    other = {**keys, "lora_transformer_x.lora_embedding_A": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"keys are none of an adapter: 'lora_transformer_x\.lora_embedding_A'"):
        pipe.load_adapter(written(tmp_path / "c.safetensors", other))
