"""Pipelines on several devices: the same pictures, and copies on the edges that the plan names."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import calotype.memory.request
from adapters.small import diffusers_keys, factors, written
from calotype import Denoise, DiffusionPipeline, ModelConfig, ModelPool, TextToImagePipeline
from calotype.errors import ComponentError, GraphError, InputError, UnknownInput
from calotype.graph.unit import unit
from calotype.memory.residency import Residency
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.replay.again import replay
from calotype.pipelines.replay.recipe import read_recipe
from calotype.sampling import Step
from fake_devices import Devices, devices
from stubs import Encoder, Net, TextInputs, define, embeds, image, latents, noise, sigmas, text_to_image, velocity

CALL: dict[str, Any] = {"prompt": "a", "seed": 1}
SPLIT = {"encoder": "lazy:1", "net": "lazy:0"}
MODEL = "calotype/emoji-64"
MODEL_CALL: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "seed": 7, "steps": 2}


def crossed(books: Devices, source: str, target: str) -> list[int]:
    """The bytes of the copies from one device to another that are no weights of the stub networks."""
    return [n for a, b, n in books.copies if (a, b) == (source, target) and n > 4]


@pytest.fixture(scope="module")
def plain() -> bytes:
    found: bytes = text_to_image()(**CALL).image.tobytes()
    return found


# -- calls -------------------------------------------------------------------------------------------------------------


def test_the_picture_is_the_same_and_units_run_where_their_components_are(plain: bytes) -> None:
    with devices() as books:
        pipe = text_to_image(device="cpu", placement=SPLIT)
        result = pipe(**CALL)
        assert pipe.encoder.weight.device == torch.device("lazy:1") and pipe.net.weight.device == torch.device("lazy:0")
    assert result.image.tobytes() == plain and books.ran >= {"lazy:0", "lazy:1"}
    assert result.recipe == text_to_image()(**CALL).recipe


def test_the_plan_names_devices_and_the_bytes_that_move() -> None:
    with devices() as books:
        pipe = text_to_image(device="cpu", placement=SPLIT)
        plan = pipe.plan(**CALL)
        assert plan.devices == {"embeds": "lazy:1", "denoise": "lazy:0", "image": "lazy:0"}
        said = str(plan)
        books.copies.clear()
        pipe(**CALL)
    moved = {(edge.wire, edge.source, edge.target): n for edge, n in plan.edges.items()}
    assert moved == {("embeds", "lazy:1", "lazy:0"): 64}
    assert sum(crossed(books, "lazy:1", "lazy:0")) == 64
    assert "embeds   on lazy:1  x2  uses encoder" in said
    assert "moves embeds, from lazy:1 to lazy:0 for denoise: 64 B" in said
    assert plan.predicted_peaks.keys() == {"cpu", "lazy:0", "lazy:1"} and "of which at most" in said


def test_values_that_nobody_placed_move_to_the_loop() -> None:
    with devices() as books:
        text_to_image(device="cpu", placement=SPLIT)(**CALL)
    assert crossed(books, "cpu", "lazy:0") == [3 * 8 * 8 * 4]  # the latents, made of noise on the CPU, once


def test_a_call_without_several_devices_is_as_it_was() -> None:
    pipe = text_to_image(device="cpu")
    assert pipe.plan(**CALL).route is None and pipe.plan(**CALL).devices == {} and pipe.plan(**CALL).edges == {}


def test_given_values_go_where_they_are_read(plain: bytes) -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT)
        start = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        assert pipe(**CALL, given={"noise": start}).image.tobytes() == plain


def test_several_prompts_and_images_and_a_preview(plain: bytes) -> None:
    lists = {"prompt": ["a", "b"], "seed": 1, "num_images": 2}
    want = [picture.tobytes() for picture in text_to_image()(**lists).images]
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT)
        assert [picture.tobytes() for picture in pipe(**lists).images] == want
        stream = pipe.stream(**CALL)
        assert next(stream).preview()["image"].size == (8, 8)
        assert stream.finish().image.tobytes() == plain


def test_the_memo_answers_where_it_remembers_and_not_after_a_move(plain: bytes) -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT)
        pipe(**CALL)  # a tensor that moves to a device that is not there is another one, which counts as a change
        pipe.encoder.texts.clear()
        for _ in range(3):
            assert pipe(**CALL).image.tobytes() == plain
        assert pipe.encoder.texts == ["a", ""]
        pipe.place(encoder="lazy:0")
        assert pipe(**CALL).image.tobytes() == plain and pipe.encoder.texts == ["a", "", "a", ""]


def test_the_embedded_model_gives_the_same_on_two_devices_as_on_one() -> None:
    """Of a device that is not there, torch takes other kernels than of the CPU: both sides are on such devices."""
    with devices() as books:
        one, two = ({"text_encoder": "lazy:0", "vae": "lazy:0"}, {"text_encoder": "lazy:1", "vae": "lazy:2"})
        want = embedded(placement={**one, "transformer": "lazy:0"})(**MODEL_CALL)
        pipe = embedded(placement={**two, "transformer": "lazy:0"})
        plan = pipe.plan(**MODEL_CALL)
        edges = plan.edges
        books.copies.clear()
        found = pipe(**MODEL_CALL)
    assert found.image.tobytes() == want.image.tobytes() and found.recipe == want.recipe
    between = [(a, b, n) for a, b, n in books.copies if a != b and "cpu" not in (a, b)]
    assert sum(n for _, _, n in between) == sum(edges.values()) > 0
    assert {(a, b) for a, b, _ in between} == {(edge.source, edge.target) for edge in edges}


def embedded(**options: Any) -> Any:
    return TextToImagePipeline.from_pretrained(MODEL, **{"device": "cpu", "memo": 0, **options})


def test_calls_at_once(plain: bytes) -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT, memo=0)
        pipe(**CALL)  # the weights are there now, so that threads, which do not see the devices, move values alone
    found: list[bytes] = []

    def work() -> None:
        with devices():
            found.extend(pipe(**CALL).image.tobytes() for _ in range(3))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [plain] * 9


# -- place and to ------------------------------------------------------------------------------------------------------


def test_place_says_where_and_keeps_the_rest(plain: bytes) -> None:
    with devices():
        pipe = text_to_image(device="cpu", memo=0)
        assert pipe.place(encoder="lazy:1") is pipe
        assert pipe.placement == {"encoder": torch.device("lazy:1"), "net": torch.device("cpu")}
        assert pipe(**CALL).image.tobytes() == plain
        pipe.place({"net": "lazy:0"})
        assert {n: str(d) for n, d in pipe.placement.items()} == SPLIT
        assert pipe(**CALL).image.tobytes() == plain
        assert pipe.to("cpu") is pipe and set(map(str, pipe.placement.values())) == {"cpu"}
        assert pipe(**CALL).image.tobytes() == plain and pipe.plan(**CALL).route is None


def test_types_change_where_components_are() -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT, memo=0)
        pipe(**CALL)
        pipe.to(dtype=torch.bfloat16)
        assert str(pipe.net.weight.device) == "lazy:0" and pipe.net.weight.dtype == torch.bfloat16


def test_a_call_that_began_before_ends_with_an_error(plain: bytes) -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT)
        stream = pipe.stream(**CALL)
        next(stream)
        pipe.place(encoder="lazy:0")
        with pytest.raises(ComponentError, match="placed anew after this call began; finish or close a call before"):
            stream.finish()
        assert pipe(**CALL).image.tobytes() == plain


def test_a_copy_is_placed_as_well(plain: bytes) -> None:
    pipe = text_to_image(device="cpu", placement=SPLIT)
    with devices():
        other = copy.deepcopy(pipe)
        assert other.placement == pipe.placement and other.net is not pipe.net
        assert other(**CALL).image.tobytes() == plain


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_misspelled_components_and_devices_are_said() -> None:
    with pytest.raises(UnknownInput, match="placement: there is no component 'nett'; did you mean 'net'"):
        text_to_image(placement={"nett": "cpu"})
    pipe = text_to_image()
    with pytest.raises(InputError, match=r"placement\['net'\]: device must name a torch device"):
        pipe.place(net="gpu")
    with pytest.raises(InputError, match=r"placement\['scheduler'\]: it has no weights"):
        pipe.place(scheduler="cpu")
    with pytest.raises(InputError, match=r"place\('auto'\) chooses for all components; leave out net"):
        pipe.place("auto", net="cpu")
    assert isinstance(pipe._residency, Residency)


@unit
def nudged(latents: Tensor, step: Step, *, more: Net) -> Tensor:
    """Refine the latents after a step."""
    return latents + 0.01 * more(latents, step.sigma, torch.zeros(1, 1, 1, device=latents.device))


def test_a_loop_runs_on_one_device() -> None:
    looped = define(
        embeds, noise, sigmas, latents, Denoise(velocity, after_step=[nudged]), image,
        inputs=TextInputs, encoder=Encoder, net=Net, more=Net, scheduler=Any,
    )  # fmt: skip
    parts = {"encoder": Encoder(), "net": Net(), "more": Net(), "scheduler": text_to_image().scheduler}
    with pytest.raises(
        ComponentError,
        match=r"denoise uses more on lazy:1 and net on lazy:0, but a loop runs on one device, or values would cross in "
        r"every step; place them together: pipe.place\(net='lazy:1'\)",
    ):
        looped(**parts, device="cpu", placement={"net": "lazy:0", "more": "lazy:1"})
    with devices():
        pipe = looped(**parts, device="cpu", placement={"net": "lazy:0"})
        assert str(pipe.placement["more"]) == "lazy:0"  # it goes with what the same loop needs
        found = pipe(**CALL).image.tobytes()
    parts |= {"net": Net(), "more": Net(), "encoder": Encoder()}
    assert found == looped(**parts, device="cpu")(**CALL).image.tobytes()


def test_free_form_pipelines_are_moved_whole() -> None:
    class Free(DiffusionPipeline):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.register_modules(net=net)

    free = Free(Net())
    with pytest.raises(GraphError, match=r"place: Free has no units.* runs on one device, which to\(device\) moves"):
        free.place(net="cpu")
    free.net.to("meta")  # by the caller, for a __call__ that knows of it
    assert free.placement == {"net": torch.device("meta")} and free.device == torch.device("meta")


def test_a_pipeline_that_shares_its_components_is_placed_before(plain: bytes) -> None:
    pack = UnitPack((), after_step=(nudged,), components={"more": Net})
    pipe = text_to_image(device="cpu")
    wider = pipe.with_units(pack, more=Net())
    with pytest.raises(ComponentError, match=r"which can be in one place only; place them before with_units\(\)"):
        pipe.place(net="lazy:0")
    del wider
    with devices():
        pipe.place(SPLIT)
        wider = pipe.with_units(pack, more=Net())
        assert str(wider.placement["more"]) == "lazy:0"
        assert pipe(**CALL).image.tobytes() == plain
        assert wider(**CALL).image.tobytes() != plain and str(wider.more.weight.device) == "lazy:0"


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets may name the devices that are not there."""
    monkeypatch.setattr(calotype.memory.request, "_DEVICES", (*calotype.memory.request._DEVICES, "lazy"))


def test_one_device_streams_while_the_other_keeps(known_kind: None) -> None:
    with devices():
        whole = embedded(placement={"text_encoder": "lazy:1"})(**MODEL_CALL)
        pipe = embedded(placement={"text_encoder": "lazy:1"}, memory={"cpu": "11MiB"})
        plan = pipe.plan(**MODEL_CALL)
        assert plan.memory["transformer"].streamed > 0 and "text_encoder" not in plan.memory
        assert plan.predicted_peaks["cpu"] <= 11 * 2**20 and plan.edges
        assert pipe(**MODEL_CALL).image.tobytes() == whole.image.tobytes()
        assert str(pipe.text_encoder.device) == "lazy:1"


def test_weights_that_were_left_in_files_for_a_budget_are_read_where_there_is_none() -> None:
    with devices():
        options = {"dtype": torch.bfloat16, "placement": {"text_encoder": "lazy:1"}}
        whole, pipe = embedded(**options), embedded(**options, memory={"cpu": "11MiB"})
        call = {"prompt": "a red apple", "outputs": ["prompt_embeds"]}
        found = pipe(**call).prompt_embeds["positive"].cpu()
        assert torch.equal(found, whole(**call).prompt_embeds["positive"].cpu())
        assert bool(found.isfinite().all())


def test_what_is_computed_takes_its_part_of_the_budget_where_it_runs(known_kind: None) -> None:
    def plan(budget: Any) -> Any:
        return embedded(placement={"text_encoder": "lazy:1"}, memory={"cpu": budget}).plan(**MODEL_CALL)

    with devices():
        with pytest.raises(ComponentError, match=r"\w+ computes .* on cpu, .*give memory=\{'cpu': \d+\} ") as caught:
            plan("1MiB")
        budget = int(str(caught.value).rpartition("'cpu': ")[2].partition("}")[0])
        found = plan(budget)
        assert found.chosen == () and max(found.computed) < found.predicted_peaks["cpu"] <= budget


def test_a_device_that_is_too_small_says_so_before_the_call(known_kind: None) -> None:
    pipe = embedded(placement={"text_encoder": "lazy:1"}, memory={"lazy:1": "1MiB", "cpu": "40MiB"})
    with pytest.raises(ComponentError, match=r"text_encoder.*lazy:1.* give memory=\{'lazy:1': \d+\} \(bytes\) or more"):
        pipe.plan(**MODEL_CALL)


def test_a_budget_that_would_do_nothing_is_refused(known_kind: None) -> None:
    with pytest.raises(
        InputError,
        match=r"memory\['cuda:3'\] is a budget of a device that nothing runs on: cpu has .*; leave it out, "
        r"or have something run there with device='cuda:3'",
    ):
        embedded(memory={"cuda:3": "1GiB"})
    with pytest.raises(InputError, match=r"memory\['lazy:2'\] is a budget of a device .*: cpu has .*; lazy:1 has net"):
        text_to_image(device="cpu", placement={"net": "lazy:1"}, memory={"lazy:2": "1GiB"})
    with pytest.raises(InputError, match=r"memory=1000 \(bytes\) is of one device, but this pipeline runs on several"):
        text_to_image(device="cpu", placement={"net": "lazy:1"}, memory=1000)
    with pytest.raises(InputError, match=r"memory\['net'\] is 'stream', which takes a budget of lazy:1"):
        text_to_image(device="cpu", placement={"net": "lazy:1"}, memory={"cpu": "1MiB", "net": "stream"})


# -- the automatic choice ----------------------------------------------------------------------------------------------


def test_the_choice_is_by_what_components_take_and_is_said(known_kind: None) -> None:
    rooms = {"lazy:0": "14MiB", "lazy:1": "30MiB"}
    pipe = embedded(placement="auto", memory=rooms)
    assert {n: str(d) for n, d in pipe.placement.items()} == {
        "text_encoder": "lazy:1", "vae": "lazy:1", "transformer": "lazy:1",
    }  # fmt: skip
    pipe = embedded(placement="auto", memory={"lazy:0": "14MiB", "lazy:1": "15MiB"})
    assert str(pipe.placement["transformer"]) == "lazy:1" and str(pipe.placement["text_encoder"]) == "lazy:0"
    said = str(pipe.plan(**MODEL_CALL))
    assert "transformer runs on lazy:1: in the loop, on the device with the most room" in said
    assert "text_encoder runs on lazy:0: its 8.8 MiB do not fit beside the loop" in said
    assert pipe.device == torch.device("lazy:1")


def test_with_one_device_the_choice_is_that_one() -> None:
    pipe = embedded(placement="auto")
    assert set(map(str, pipe.placement.values())) == {"cpu"}
    assert pipe(**MODEL_CALL).image.tobytes() == embedded()(**MODEL_CALL).image.tobytes()


def test_adapters_run_where_their_network_does(tmp_path: Any) -> None:
    pairs = factors(embedded().transformer, 2, seed=1, size=0.02)
    file = written(tmp_path / "lora.safetensors", diffusers_keys(pairs, "transformer"))
    with devices():
        one = embedded(placement=dict.fromkeys(("text_encoder", "vae", "transformer"), "lazy:0"))
        two = embedded(placement={"text_encoder": "lazy:1", "vae": "lazy:1", "transformer": "lazy:0"})
        plain = two(**MODEL_CALL).image.tobytes()
        for pipe in (one, two):
            pipe.load_adapter(file, "it")
        found = two(**MODEL_CALL)
        assert found.image.tobytes() == one(**MODEL_CALL).image.tobytes() != plain
        two.unload_adapter("it")
        assert two(**MODEL_CALL).image.tobytes() == plain
    assert [record.component for record in found.recipe.adapters] == ["transformer"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_is_saved_and_loaded_has_no_place(tmp_path: Any) -> None:
    with devices():
        pipe = embedded(placement={"text_encoder": "lazy:1"})
        result = pipe(**MODEL_CALL)
        pipe.save_pretrained(tmp_path / "pipe")
        result.save(tmp_path / "apple.png")
        other = TextToImagePipeline.from_pretrained(
            tmp_path / "pipe", device="cpu", placement={"text_encoder": "lazy:1"}
        )
        assert other(**MODEL_CALL).image.tobytes() == result.image.tobytes()
    assert read_recipe(tmp_path / "apple.png") == result.recipe.of_item(0)
    again = replay(tmp_path / "apple.png")
    assert again.made == again.recipe


def test_files_may_say_where_their_network_computes() -> None:
    folder = Path(calotype.__file__).parent / "assets" / "emoji-64"
    pool = ModelPool(
        [
            ModelConfig(path=folder / "text_encoder" / "model.safetensors"),
            ModelConfig(path=folder / "vae" / "diffusion_pytorch_model.safetensors"),
            ModelConfig(path=folder / "transformer" / "diffusion_pytorch_model.safetensors",
                        offload_device="cpu", computation_device="lazy:0"),
        ]
    )  # fmt: skip
    parts = {name: part for name, part in embedded().components.items() if name in ("tokenizer", "scheduler")}
    pipe = TextToImagePipeline.from_pretrained(pool, device="cpu", **parts)
    assert {n: str(d) for n, d in pipe.placement.items()} == {
        "text_encoder": "cpu", "vae": "cpu", "transformer": "lazy:0",
    }  # fmt: skip


def test_networks_that_are_assigned_later_go_where_their_name_is_placed() -> None:
    with devices():
        pipe = text_to_image(device="cpu", placement=SPLIT, memo=0)
        pipe(**CALL)
        pipe.net = Net()
        pipe(**CALL)
        assert str(pipe.net.weight.device) == "lazy:0"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("memory", [None, {"cuda:0": "11MiB", "cuda:1": "40MiB", "cpu": "1GiB"}])
def test_on_two_gpus(memory: Any) -> None:
    one = embedded(device="cuda:0")(**MODEL_CALL)
    pipe = embedded(device="cuda:0", placement={"text_encoder": "cuda:1", "vae": "cuda:1"}, memory=memory)
    assert pipe.plan(**MODEL_CALL).edges
    assert pipe(**MODEL_CALL).image.tobytes() == one.image.tobytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", [None, {"cuda:0": "11MiB"}, {"cuda:0": "11MiB", "cpu": "12MiB"}])
def test_on_a_gpu_and_the_cpu(memory: Any) -> None:
    plain = embedded(device="cuda:0", placement={"text_encoder": "cpu"})(**MODEL_CALL)
    pipe = embedded(device="cuda:0", placement={"text_encoder": "cpu"}, memory=memory)
    assert pipe.plan(**MODEL_CALL).devices["prompt_embeds"] == "cpu"
    assert pipe(**MODEL_CALL).image.tobytes() == plain.image.tobytes()
    assert isinstance(pipe.text_encoder, nn.Module) and pipe.text_encoder.device.type == "cpu"
