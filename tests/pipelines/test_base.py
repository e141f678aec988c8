"""`DiffusionPipeline`: classes, components, calls, streams, folders, and free-form pipelines."""

import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from calotype import DDPMScheduler, UNet2DModel
from calotype.errors import (
    ComponentError,
    ComponentNotLoaded,
    GraphError,
    InputError,
    RepositoryError,
    UnknownInput,
    UnusedInput,
)
from calotype.graph.hints import Component
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.memory import Residency
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.result import Result
from calotype.pipelines.stream import Stream
from calotype.sampling import DDIMScheduler, Scheduler
from stubs import Encoder, Ledger, Net, TextInputs, TextToImage, define, embeds, text_to_image

if TYPE_CHECKING:
    from decimal import Decimal

TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


# -- classes -----------------------------------------------------------------------------------------------------------


def test_the_signature_is_the_inputs():
    signature = inspect.signature(TextToImage.__call__)
    assert list(signature.parameters)[:2] == ["self", "prompt"]
    assert signature.parameters["steps"].default == 4 and signature.return_annotation is Result
    assert next(iter(inspect.signature(text_to_image()).parameters)) == "prompt"
    assert "    steps: int (default 4)." in TextToImage.__call__.__doc__


def test_inputs_by_attribute_or_by_call():
    class ByAttribute(TextToImage):
        class Inputs(TextInputs):
            steps: int = 7

    assert inspect.signature(ByAttribute.__call__).parameters["steps"].default == 7
    assert ByAttribute.Inputs is not TextToImage.Inputs
    with pytest.raises(
        GraphError, match=r"Twice declares its inputs twice: leave out Inputs, or __call__ = takes\(\.\.\.\)"
    ):

        class Twice(TextToImage):
            Inputs = TextInputs
            __call__ = takes(ByAttribute.Inputs)


def test_a_call_of_ones_own_is_kept():
    class Own(TextToImage):
        def __call__(self, text: str) -> Any:
            """Mine."""
            return self._call(prompt=text, steps=1, seed=0)

    assert isinstance(text_to_image(Own)("a"), Result) and Own.__call__.__doc__ == "Mine."


def test_a_component_cannot_take_the_name_of_what_every_pipeline_has():
    for name in ("plan", "device", "memory", "memo", "to"):
        with pytest.raises(
            GraphError, match=f"a component cannot be named '{name}', which every pipeline has; rename it"
        ):
            define(embeds, inputs=TextInputs, encoder=Encoder, **{name: Net})


def test_component_types_are_there_at_run_time():
    with pytest.raises(
        GraphError,
        match="Priced: the annotation 'Decimal' cannot be found at run time; import it outside of `if TYPE_CHECK",
    ):

        class Priced(DiffusionPipeline):
            price: "Decimal"


def test_errors_of_the_graph_are_raised_with_the_class():
    with pytest.raises(GraphError, match="Pipe: embeds uses component 'encoder', which the pipeline does not declare"):
        define(embeds, inputs=type("P", (Inputs,), {"__annotations__": {"prompt": str}}))


# -- components --------------------------------------------------------------------------------------------------------


def test_components_by_name():
    pipe = text_to_image()
    assert list(pipe.components) == ["encoder", "net", "scheduler"]
    assert repr(pipe) == "TextToImage(encoder=Encoder, net=Net, scheduler=FlowMatchEulerDiscreteScheduler)"


def test_a_default_component_is_not_shared():
    assert text_to_image().scheduler is not text_to_image().scheduler


def test_unknown_components_and_options():
    with pytest.raises(
        UnknownInput, match=r"TextToImage has no component or option 'encodr'; did you mean 'encoder'\?"
    ):
        TextToImage(encodr=Encoder())
    with pytest.raises(
        AttributeError, match=r"TextToImage has no component 'nett'; did you mean 'net'\?; its components are"
    ):
        text_to_image().nett = Net()


def test_components_of_the_wrong_type():
    with pytest.raises(ComponentError, match=r"TextToImage\.encoder must be Encoder, got Net"):
        TextToImage(encoder=Net())
    pipe = text_to_image()
    with pytest.raises(ComponentError, match=r"TextToImage\.net must be Net, got str"):
        pipe.net = "net"
    pipe.net = None
    with pytest.raises(ComponentNotLoaded, match="denoise needs component 'net'"):
        pipe(prompt="a")


def test_components_by_the_name_of_their_class():
    tokenizer = type("Fast", (type("CLIPTokenizer", (), {"__module__": "transformers.models.clip"}),), {})

    @unit
    def told(text: str, *, tokenizer: Component["transformers:CLIPTokenizer"]) -> str:
        return text

    class Text(Inputs):
        text: str

    cls = define(told, inputs=Text, tokenizer=Component["transformers:CLIPTokenizer"])
    assert cls(tokenizer=tokenizer())(text="a").told == "a"
    with pytest.raises(
        ComponentError, match=r'Pipe\.tokenizer must be Component\["transformers:CLIPTokenizer"\], got Encoder'
    ):
        cls(tokenizer=Encoder())


def test_changed_names_a_component():
    with pytest.raises(UnknownInput, match=r"changed: there is no component 'encodr'; did you mean 'encoder'\?"):
        text_to_image().changed("encodr")


def test_a_pipeline_does_not_outlive_its_last_reference():
    import gc
    import weakref

    pipe = text_to_image()
    pipe(prompt="a", seed=1)
    gone = weakref.ref(pipe.net)
    gc.disable()
    try:
        del pipe
        assert gone() is None
    finally:
        gc.enable()


def test_to_converts_and_moves():
    pipe = text_to_image()
    assert pipe.to(dtype=torch.float64) is pipe and pipe.net.weight.dtype == torch.float64
    pipe.to("meta")
    assert pipe.device.type == "meta" and pipe.net.weight.device.type == "meta"
    with pytest.raises(InputError, match=r"to\(\): torch\.float16 is a dtype; write to\(dtype=torch\.float16\)"):
        pipe.to(torch.float16)
    with pytest.raises(InputError, match="device must name a torch device such as 'cuda' or 'cpu', got 'gpuu'"):
        text_to_image(device="gpuu")


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"prmpt": "a"}, UnknownInput, "'prmpt' is not an input; did you mean 'prompt'"),
        ({"prompt": "a", "steps": "4"}, InputError, "steps must be int, got str '4'"),
        ({"prompt": "a", "steps": 0}, InputError, "steps"),
        ({"prompt": "a", "guidance_scale": float("nan")}, InputError, "guidance scale must be a finite number"),
        ({"prompt": "a", "guidance_scale": 1.0, "negative_prompt": "b"}, UnusedInput, "guidance is off"),
    ],
)
def test_wrong_calls(inputs, error, message):
    with pytest.raises(error, match=message):
        text_to_image()(**inputs)


def test_keywords_only():
    with pytest.raises(InputError, match="TextToImage takes keywords only; write prompt='a cat'"):
        text_to_image()("a cat")


def test_a_model_of_inputs_instead_of_keywords():
    pipe = text_to_image()
    one = pipe.run(TextInputs(prompt="a", seed=3, steps=2))
    assert one.image.tobytes() == pipe(prompt="a", seed=3, steps=2).image.tobytes()
    assert "guidance_scale" not in TextInputs(prompt="a").model_fields_set
    with pytest.raises(InputError, match="run takes TextInputs, got Inputs"):
        pipe.run(Inputs())


def test_nothing_of_a_call_stays_on_the_pipeline():
    pipe = text_to_image(memo=0)
    pipe(prompt="a", seed=1)
    before = {name: id(value) for name, value in vars(pipe).items()}
    scheduler = dict(vars(pipe.scheduler))
    pipe(prompt="b", seed=2, steps=3)
    assert {name: id(value) for name, value in vars(pipe).items()} == before
    assert all(vars(pipe.scheduler)[name] is value for name, value in scheduler.items())


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_what_the_call_gives():
    pipe = text_to_image()
    stream = pipe.stream(prompt="a", seed=1)
    assert isinstance(stream, Stream) and [e.index for e in stream] == [0, 1, 2, 3]
    assert stream.result.image.tobytes() == pipe(prompt="a", seed=1).image.tobytes()


def test_errors_are_raised_before_the_first_step():
    pipe = text_to_image()
    for wrong in (
        {"prompt": "a", "steps": "x"},
        {},
        {"prompt": "a", "outputs": ("x",)},
        {"prompt": "a", "given": {"x": 1}},
    ):
        with pytest.raises(InputError):
            pipe.stream(**wrong)
    pipe.encoder = None
    with pytest.raises(ComponentNotLoaded):
        pipe.stream(prompt="a")


def test_finishing_after_a_look():
    pipe = text_to_image()
    with pipe.stream(prompt="a", seed=1) as stream:
        next(stream)
        result = stream.finish()
    assert result is stream.result and result.image.tobytes() == pipe(prompt="a", seed=1).image.tobytes()


def test_there_is_no_result_before_the_end():
    stream = text_to_image().stream(prompt="a", seed=1)
    next(stream)
    with pytest.raises(InputError, match=r"the stream has not finished: iterate it to the end, or call finish\(\)"):
        _ = stream.result
    stream.close()
    with pytest.raises(InputError, match="the stream was closed before its end"):
        stream.finish()


def budgeted(budget=2):
    """A pipeline on a pretended device with room for two components of one byte."""
    pipe = text_to_image()
    ledger = Ledger()
    sizes = {id(pipe.scheduler): 0}
    ledger.size = lambda component: sizes.get(id(component), 1)
    device = ledger.device
    ledger.device = lambda component: None if component is pipe.scheduler else device(component)
    pipe._residency = Residency(
        lambda: pipe.components, torch.device("cpu"), budget, host=torch.device("meta"), transfer=ledger
    )
    return pipe, ledger


def test_cancelling_leaves_nothing_behind():
    pipe, _ = budgeted(budget=1)
    stream = pipe.stream(prompt="a", seed=1)
    next(stream)
    stream.close()
    assert pipe._residency._held == {} and stream._run.wires == {}
    assert pipe(prompt="b", seed=1).image.size == (8, 8)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_that_was_never_started_leaves_nothing_behind():
    stream = text_to_image().stream(prompt="a", seed=1)
    stream.close()
    assert stream._run.wires == {}


def test_what_raises_in_the_loop_leaves_nothing_behind():
    pipe, _ = budgeted(budget=1)
    healthy, pipe.net.forward = pipe.net.forward, None
    with pytest.raises(TypeError):
        pipe(prompt="a", seed=1)
    pipe.net.forward = healthy
    assert pipe._residency._held == {}
    assert pipe(prompt="a", seed=1).image.size == (8, 8)


def test_streams_may_be_interleaved_on_one_thread_whatever_the_budget():
    pipe, _ = budgeted(budget=1)
    first, second = pipe.stream(prompt="a", seed=1), pipe.stream(prompt="b", seed=2)
    for one, other in zip(first, second, strict=True):
        assert one.index == other.index
        assert one.preview()["image"].size == (8, 8)
    plain = text_to_image()
    assert first.result.image.tobytes() == plain(prompt="a", seed=1).image.tobytes()
    assert second.result.image.tobytes() == plain(prompt="b", seed=2).image.tobytes()


def test_a_call_comes_and_goes_with_as_few_moves_as_it_needs():
    pipe, ledger = budgeted(budget=1)
    pipe(prompt="a", seed=1)
    moves = [(type(part).__name__, "here" if where == "cpu" else "away") for part, where in ledger.moves]
    assert moves == [("Encoder", "here"), ("Encoder", "away"), ("Net", "here")]


def test_a_budget_that_is_too_small_is_an_error():
    pipe = text_to_image(memory=3)
    with pytest.raises(
        ComponentError, match=r"denoise computes .* with net, scheduler on cpu, .* but the budget is 3 B; give memory"
    ):
        pipe(prompt="a")


# -- free-form ---------------------------------------------------------------------------------------------------------


class OneForward(DiffusionPipeline):
    """The pipeline of the community guide."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self):
        sample = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        output = self.unet(sample, 1).sample
        return self.scheduler.step(output, 1, sample).prev_sample


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return UNet2DModel(**TINY)


def test_free_form(unet):
    pipe = OneForward(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=20))
    assert list(pipe.components) == ["unet", "scheduler"] and pipe.unet is unet
    pipe.note = "anything"
    with torch.no_grad():
        assert pipe().shape == (1, 3, 8, 8)
    assert repr(pipe) == "OneForward(unet=UNet2DModel, scheduler=DDPMScheduler)"
    assert pipe.device == torch.device("cpu") and pipe.to(dtype=torch.float64).unet.dtype == torch.float64


def test_free_form_has_no_plan():
    class Bare(DiffusionPipeline):
        pass

    for ask in ("plan", "stream", "draw", "__call__"):
        with pytest.raises(
            GraphError, match="Bare has no units: a free-form pipeline is called, it has no plan or stream"
        ):
            getattr(Bare(), ask)()


def test_free_form_calls_its_base():
    class Hasty(DiffusionPipeline):
        def __init__(self, unet):
            self.register_modules(unet=unet)

    with pytest.raises(ComponentError, match=r"Hasty\.__init__ must call super\(\)\.__init__\(\) first"):
        Hasty(unet=None)


def test_free_form_comes_back_from_a_folder(unet, tmp_path):
    OneForward(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=20)).save_pretrained(tmp_path / "pipe")
    again = OneForward.from_pretrained(tmp_path / "pipe")
    assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), unet.parameters(), strict=True))
    assert again.scheduler.config.num_train_timesteps == 20
    without = OneForward.from_pretrained(tmp_path / "pipe", unet=None)
    assert without.unet is None and isinstance(without.scheduler, DDPMScheduler)
    mine = OneForward.from_pretrained(tmp_path / "pipe", scheduler=DDIMScheduler())
    assert isinstance(mine.scheduler, DDIMScheduler)
    assert OneForward.from_pretrained(tmp_path / "pipe", only=["scheduler"]).unet is None
    with pytest.raises(UnknownInput, match=r"OneForward has no component or option 'unett'; did you mean 'unet'\?"):
        OneForward.from_pretrained(tmp_path / "pipe", unett=unet)
    with pytest.raises(InputError, match="memory= and memo= are for pipelines with units; OneForward runs by itself"):
        OneForward.from_pretrained(tmp_path / "pipe", memory="1GiB")
    with pytest.raises(
        RepositoryError, match=r"for a pipeline 'OneForward', which calotype does not have .* YourPipeline\.from"
    ):
        DiffusionPipeline.from_pretrained(tmp_path / "pipe")


def test_free_form_settings_and_defaults(unet, tmp_path):
    class Settled(OneForward):
        def __init__(self, unet, scheduler, extra=None, style: str = "plain", **rest):
            super().__init__(unet, scheduler)
            self.settings = (extra, style, rest)

    OneForward(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    assert Settled.from_pretrained(tmp_path / "pipe").settings == (None, "plain", {})
    index = tmp_path / "pipe" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "style": "bold"}))
    assert Settled.from_pretrained(tmp_path / "pipe").settings == (None, "bold", {})


# -- folders, with units -----------------------------------------------------------------------------------------------


@unit
def size(seed: int, *, unet: UNet2DModel, scheduler: Scheduler, control: UNet2DModel | None) -> int:
    return unet.config.sample_size


class Sized(DiffusionPipeline):
    unet: UNet2DModel
    scheduler: Scheduler = DDPMScheduler(num_train_timesteps=7)
    control: UNet2DModel | None = None
    units = (size,)


def test_a_folder_of_a_pipeline_with_units(unet, tmp_path):
    Sized(unet=unet).save_pretrained(tmp_path / "pipe")
    again = Sized.from_pretrained(tmp_path / "pipe")
    assert again(seed=1).size == 8 and again.control is None
    assert again.scheduler.config.num_train_timesteps == 7
    assert again(seed=1).recipe.source == str(tmp_path / "pipe")
    assert Sized.from_pretrained(tmp_path / "pipe", unet=None).unet is None
    assert Sized.from_pretrained(tmp_path / "pipe", scheduler=None).scheduler is None
    only = Sized.from_pretrained(tmp_path / "pipe", only=["unet"])
    assert only.unet is not None and only.scheduler is None
    assert Sized.from_pretrained(tmp_path / "pipe", torch_dtype=torch.float16).unet.dtype == torch.float16
    with pytest.raises(
        UnknownInput, match=r"from_pretrained: Sized has no component or option 'unt'; did you mean 'unet'\?"
    ):
        Sized.from_pretrained(tmp_path / "pipe", unt=unet)


def test_a_component_that_a_folder_does_not_list_is_the_class_own(unet, tmp_path):
    Sized(unet=unet).save_pretrained(tmp_path / "pipe")
    index = tmp_path / "pipe" / "model_index.json"
    listed = json.loads(index.read_text())
    del listed["scheduler"]
    index.write_text(json.dumps(listed))
    assert Sized.from_pretrained(tmp_path / "pipe").scheduler.config.num_train_timesteps == 7
    index.write_text(json.dumps({**listed, "scheduler": [None, None]}))
    assert Sized.from_pretrained(tmp_path / "pipe").scheduler is None


def test_no_such_model():
    with pytest.raises(RepositoryError, match="no model 'calotype/emoji-65' ships with calotype"):
        DiffusionPipeline.from_pretrained("calotype/emoji-65")


def test_stub_classes_cannot_be_saved(tmp_path):
    with pytest.raises(ComponentError, match="stubs"):
        text_to_image().save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


def test_a_network_without_parameters_can_be_a_component():
    class Empty(nn.Module):
        pass

    @unit
    def told(seed: int, *, empty: Empty) -> int:
        return seed

    result = define(told, empty=Empty)(empty=Empty())(seed=1)
    assert result.told == 1 and result.recipe.dtypes == {}
