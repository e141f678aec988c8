"""A pipeline out of single files: components by type or by role, and everything that can be wrong with that."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import calotype
from calotype import (
    CATALOGUE,
    DiffusionPipeline,
    FlowMatchEuler,
    MiniAutoencoderKL,
    ModelConfig,
    ModelPool,
    TextToImagePipeline,
    UNet2DModel,
    unit,
)
from calotype.errors import ComponentError, InputError, UnknownInput, WeightsError
from calotype.weights.sources import is_resting
from pool_files import save, state
from stubs import Net

EMBEDDED = Path(calotype.__file__).parent / "assets" / "emoji-64"
FILES = ModelConfig(path=EMBEDDED / "*" / "*.safetensors")


@unit
def total(seed: int, *, high: Net, low: Net) -> Tensor:
    return high.weight + low.weight


@unit
def of_net(seed: int, *, net: UNet2DModel) -> Tensor:
    return net.conv_in.weight


class Two(DiffusionPipeline):
    high: Net
    low: Net

    units = (total,)


@pytest.fixture(scope="module")
def whole() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("calotype/emoji-64")


@pytest.fixture
def nets(tmp_path: Path) -> ModelPool:
    catalogue = CATALOGUE.with_model("net", Net, keys={"weight": (1,)})
    one, two = Net(), Net()
    two.weight.data.fill_(7)
    paths = [save(tmp_path / f"{n}.safetensors", state(net)) for n, net in (("one", one), ("two", two))]
    return ModelPool(
        [ModelConfig(path=path, name=name) for path, name in zip(paths, ("high", "low"), strict=True)],
        catalogue=catalogue,
    )


def test_a_pipeline_from_files_draws_the_same_picture(whole) -> None:
    pipe = TextToImagePipeline.from_pretrained([FILES], tokenizer=whole.tokenizer, scheduler=whole.scheduler)
    ours, theirs = (p(prompt="red apple", steps=2, seed=3).image for p in (pipe, whole))
    assert ours.tobytes() == theirs.tobytes()


def test_one_config_or_a_pool_will_do(whole) -> None:
    given = {"tokenizer": whole.tokenizer, "scheduler": whole.scheduler}
    half = TextToImagePipeline.from_pretrained(FILES, **given, dtype="bfloat16")
    assert {half.vae.dtype, half.transformer.dtype} == {torch.bfloat16}
    pool = ModelPool([FILES])
    pipe = TextToImagePipeline.from_pretrained(pool, **given)
    assert pipe.transformer is pool.fetch_model("mini_transformer")


def test_a_component_that_is_given_is_not_sought(whole) -> None:
    pool = ModelPool([FILES])
    pipe = TextToImagePipeline.from_pretrained(pool, tokenizer=whole.tokenizer, vae=whole.vae, transformer=None)
    assert pipe.vae is whole.vae
    assert pipe.transformer is None
    assert isinstance(pipe.scheduler, FlowMatchEuler)  # the class's own
    assert len(pool._made) == 1


def test_only_some_components(whole) -> None:
    pipe = TextToImagePipeline.from_pretrained(FILES, only=["text_encoder"], tokenizer=whole.tokenizer)
    assert pipe.vae is pipe.transformer is None
    assert pipe.text_encoder is not None


def test_weights_that_are_not_finite_are_refused_on_request(tmp_path) -> None:
    class One(DiffusionPipeline):
        net: UNet2DModel

        units = (of_net,)

    net = UNet2DModel(sample_size=8, block_out_channels=(32, 32, 32, 32))
    with torch.no_grad():
        net.conv_in.bias[0] = torch.nan
    net.save_pretrained(tmp_path)
    file = ModelConfig(path=tmp_path / "diffusion_pytorch_model.safetensors")
    assert One.from_pretrained(file).net.conv_in.bias[0].isnan()
    with pytest.raises(WeightsError, match=r"has NaN or infinity: .*'conv_in.bias' \(1 of 32 values\)"):
        One.from_pretrained(file, check="finite")


def test_roles_part_two_of_one_type(nets) -> None:
    pipe = Two.from_pretrained(nets)
    assert (pipe.high.weight.item(), pipe.low.weight.item()) == (0.5, 7.0)


def test_two_of_one_type_without_roles_are_refused(nets) -> None:
    configs = [ModelConfig(path=report.files[0]) for report in nets.report]
    pool = ModelPool(configs, catalogue=nets.catalogue)
    with pytest.raises(ComponentError, match="'high' and 'low' are both a Net; say which file is which"):
        Two.from_pretrained(pool)


load = TextToImagePipeline.from_pretrained
MISSPELLED = ModelConfig(path=FILES.path, name="transfomer")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DiffusionPipeline.from_pretrained([FILES]), InputError, "files do not say which pipeline they are"),
        (lambda: load([FILES]), ComponentError, r"needs tokenizer, which no file has: there is word_text_encoder, "),
        (lambda: load([MISSPELLED]), UnknownInput, "'transfomer' is not a component.*; did you mean 'transformer'"),
        (lambda: load([FILES], only=["va"]), UnknownInput, "only: 'va' is not a component of TextToImagePipeline"),
        (lambda: load([FILES], vea=1), UnknownInput, "no component or option 'vea'"),
        (lambda: load(["a.safetensors"]), InputError, r"write ModelConfig\(path='a.safetensors'\)"),
        (lambda: load([FILES], revision="v1"), InputError, "revision='v1' is for a repository"),
        (lambda: load([FILES], variant="fp16"), InputError, "variant='fp16' is for a repository"),
        (lambda: load([FILES], check="finit"), InputError, "check must be 'finite' or None, got 'finit'; did you mean"),
        (lambda: load(ModelPool(FILES), check="finite"), InputError, r"check=, .* are for ModelPool"),
        (lambda: load([FILES], dtype={"vae": "float16"}), InputError, "dtype= by name is for repositories"),
        (lambda: load(ModelPool(FILES), dtype="float16"), InputError, r"are for ModelPool\(...\); give them there"),
    ],
)
def test_wrong_calls_are_refused(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("given", [False, True])
def test_within_a_budget_nothing_is_converted_when_it_is_loaded(whole: TextToImagePipeline, given: bool) -> None:
    call = {"prompt": "a cat", "steps": 2, "seed": 3, "outputs": ["latents"]}
    pipe = TextToImagePipeline.from_pretrained(
        ModelPool(FILES) if given else FILES,
        tokenizer=whole.tokenizer, scheduler=whole.scheduler, device="cpu", memory="14MiB", memo=0,
    )  # fmt: skip
    assert is_resting(pipe.transformer.blocks[0].to_qkv.weight)
    assert pipe.plan(**call).memory["transformer"].waits == "disk"
    assert torch.equal(pipe(**call).latents, whole(**call).latents)


class Free(DiffusionPipeline):
    def __init__(self, vae: MiniAutoencoderKL) -> None:
        super().__init__()
        self.register_modules(vae=vae)


def test_files_of_a_pipeline_that_runs_by_itself_have_no_place_of_their_own() -> None:
    path = EMBEDDED / "vae" / "*.safetensors"
    said = (
        "the file of vae says computation_device='meta', but Free runs by itself, on one device, which is 'cpu'; leave"
    )
    with pytest.raises(InputError, match=said):
        Free.from_pretrained(ModelConfig(path=path, name="vae", computation_device="meta"), device="cpu")
    here = Free.from_pretrained(ModelConfig(path=path, name="vae", computation_device="cpu"), device="cpu")
    assert here.device == torch.device("cpu")
