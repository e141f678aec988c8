"""Wrong values in what a user calls first: each gets the error of the tree that says what to type instead."""

import re
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import calotype
from calotype import (
    CLIPTokenizer,
    DDPMPipeline,
    DDPMScheduler,
    Denoise,
    DiffusionPipeline,
    MiniAutoencoderKL,
    ModelConfig,
    ModelPool,
    StableDiffusionPipeline,
    TextToImagePipeline,
    UnitPack,
    WordTokenizer,
    read_recipe,
    replay,
    to_picture,
)
from calotype.errors import ComponentError, ConfigError, GraphError, InputError, RepositoryError, WeightsError
from calotype.training import LowRankChange, PictureFolder
from calotype.training.rows import as_rows
from calotype.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("calotype/emoji-64")


ASSETS = Path(calotype.__file__).parent / "assets"

PATHS = {
    "from_single_file": (StableDiffusionPipeline.from_single_file, "a file, a folder or 'owner/name', got int 3"),
    "read_recipe": (read_recipe, "read_recipe takes the path of a picture, got int 3"),
    "replay": (replay, "replay takes the path of a picture, got int 3"),
    "load_adapter": (TextToImagePipeline().load_adapter, "takes a file, a folder or 'owner/name', got int 3"),
    "load_textual_inversion": (TextToImagePipeline().load_textual_inversion, "a file, a folder or 'owner/name', got"),
    "save_pretrained": (TextToImagePipeline().save_pretrained, "save_pretrained takes the path of a folder, got int 3"),
}


@pytest.mark.parametrize("name", PATHS)
def test_what_is_no_path(name: str) -> None:
    call, said = PATHS[name]
    with pytest.raises(InputError, match=re.escape(said)):
        call(3)


TAKERS: dict[str, Callable[[str], object]] = {
    "read_recipe": read_recipe,
    "from_pretrained": DiffusionPipeline.from_pretrained,
    "cache_dir": lambda path: DiffusionPipeline.from_pretrained("owner/name", cache_dir=path, local_files_only=True),
    "custom_pipeline": lambda path: DiffusionPipeline.from_pretrained("calotype/emoji-64", custom_pipeline=path),
    "a network": MiniAutoencoderKL.from_pretrained,
    "a scheduler": DDPMScheduler.from_pretrained,
    "a saved network": MiniAutoencoderKL().save_pretrained,
    "ModelConfig": lambda path: ModelPool(ModelConfig(path=path)),
    "a picture": lambda path: TextToImagePipeline()(prompt="a cat", image=path),
    "training pictures": lambda path: PictureFolder(path=path).rows(),
}


NO_PATHS = {
    "~no-such-user/a.png": "of a user that there is not",
    "a\0b/c": "has a null character",
    "\ud800.png": "has a character that no name can have",
    f"a/{'ä' * 128}/c": "has a name of 256 bytes; file systems take 255",
    "a/" * 2049: "is 4098 bytes long; file systems take 4096",
}


@pytest.mark.parametrize("path", NO_PATHS, ids=NO_PATHS.values())
@pytest.mark.parametrize("taker", TAKERS)
def test_a_path_that_none_can_have(taker: str, path: str) -> None:
    with pytest.raises(InputError, match=f"take.*{NO_PATHS[path]}"):
        TAKERS[taker](path)


def test_tokenizers_and_schedulers_are_saved_at_home(
    pipe: TextToImagePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pipe.tokenizer.save_pretrained("~/tokenizer")
    pipe.scheduler.save_pretrained("~/scheduler")
    CLIPTokenizer({"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}).save_pretrained("~/clip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "scheduler", "tokenizer"]
    with pytest.raises(InputError, match="save_pretrained takes the path of a folder, got ~no-such-user/x, of a user"):
        pipe.scheduler.save_pretrained("~no-such-user/x")


def test_a_result_is_saved_at_a_path(
    pipe: TextToImagePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pipe(prompt="a red apple", steps=1, seed=1)
    with pytest.raises(InputError, match=r"saving pictures takes the path of a \.png file, got int 3"):
        result.save(3)
    with pytest.raises(AttributeError, match="has no 'latents'; it has image; outputs= of the call names others"):
        _ = result.latents
    monkeypatch.setenv("HOME", str(tmp_path))
    assert result.save("~/apple.png") == [tmp_path / "apple.png"] and (tmp_path / "apple.png").is_file()
    with pytest.raises(InputError, match="pipe= is the pipeline that made the picture, got int"):
        replay(tmp_path / "apple.png", pipe=3)


def test_a_pipeline_that_replays_is_not_loaded(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    """What says how to load one was left unread."""
    (path,) = pipe(prompt="a red apple", steps=1, seed=1).save(tmp_path / "apple.png")
    assert replay(path, pipe=pipe).identical
    with pytest.raises(InputError, match="pipe= runs as it is, and nothing is loaded; leave out source=, memory="):
        replay(path, pipe=pipe, source="nothing", memory="8GiB")
    for adapters in ("oil.safetensors", ["oil.safetensors"], ("oil.safetensors", 0.8)):
        with pytest.raises(InputError, match=r"takes pairs, such as .*, got 'oil.safetensors' among them"):
            replay(path, adapters=adapters)


NAMES: dict[str, tuple[Callable[[TextToImagePipeline], object], str]] = {
    "unload_adapter": (lambda pipe: pipe.unload_adapter(["oil"]), "there is no adapter ['oil']; loaded are none"),
    "set_adapters": (lambda pipe: pipe.set_adapters(None), "takes a mapping of names to weights, or names, got None"),
    "draw": (lambda pipe: pipe.draw(["svg"]), "form must be one of text, svg, html, got ['svg']"),
    "compile": (lambda pipe: pipe.compile(["vae"]), "takes the names of components, one after the other, got ['vae']"),
    "only": (lambda pipe: type(pipe).from_pretrained("calotype/emoji-64", only=b"vae"), "a list of component names"),
    "only of files": (lambda pipe: type(pipe).from_pretrained([FILE], only="vae"), "got 'vae'; write ['vae']"),
    "catalogue": (lambda pipe: ModelPool(FILE, catalogue="mine"), "must be a Catalogue, such as CATALOGUE.with_model"),
    "subfolder": (lambda pipe: WordTokenizer.from_pretrained("calotype/emoji-64", "a\0b"), "must be a path below"),
}
FILE = ModelConfig(path=str(ASSETS / "emoji-64/vae"))


@pytest.mark.parametrize("name", NAMES)
def test_what_names_nothing(pipe: TextToImagePipeline, name: str) -> None:
    call, said = NAMES[name]
    with pytest.raises(InputError, match=re.escape(said)):
        call(pipe)


def test_the_name_of_a_shipped_model_without_what_it_begins_with() -> None:
    with pytest.raises(RepositoryError, match="no folder emoji-64; write 'calotype/emoji-64' for the model that"):
        DiffusionPipeline.from_pretrained("emoji-64")
    with pytest.raises(RepositoryError, match="there is no folder ' '"):
        DiffusionPipeline.from_pretrained(" ")


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        (3, "with_units takes a list of units, a UnitPack, or the name or the path of one, got int"),
        (UnitPack, "or the name or the path of one, got UnitPack"),
        (TextToImagePipeline.units[0], "got the unit 'prompt_embeds'; write with_units([prompt_embeds])"),
        ([3], "with_units takes units, got 3 among them"),
        ([len], "with_units takes units, got len among them; write @unit above its `def`"),
    ],
)
def test_what_is_no_pack(pack: object, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        TextToImagePipeline().with_units(pack)


def test_a_custom_pipeline_is_named() -> None:
    with pytest.raises(InputError, match=r"custom_pipeline takes the name of what ships, a file, .* got int 3"):
        DiffusionPipeline.from_pretrained("calotype/emoji-64", custom_pipeline=3)


@pytest.mark.parametrize("trained", [None, 3])
def test_a_split_takes_names(trained: object) -> None:
    with pytest.raises(InputError, match=f"split takes the names of the components to train, got {trained}"):
        TextToImagePipeline.split(trained)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 16, 8), (1, 16, 1, 8, 8)])
def test_given_noise_of_another_shape_is_named(
    pipe: TextToImagePipeline, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which nobody has on but these tests
    said = re.escape(f"latents must be [batch, 16, height, width], got {[2, *shape[1:]]}")  # of both branches
    with pytest.raises(InputError, match=said) as error:
        pipe(prompt="a red apple", steps=1, given={"noise": torch.zeros(shape)})
    assert error.value.__notes__ == [f"in the unit 'denoise'; given= brought 'noise' {list(shape)}"]


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 16, 1, 1), (1, 8, 8)])
def test_given_noise_is_not_stretched_over_a_picture(pipe: TextToImagePipeline, shape: tuple[int, ...]) -> None:
    said = f"noise must be [1, 16, 8, 8], as the picture's latents are, got {list(shape)}"
    with pytest.raises(InputError, match=re.escape(said)):
        pipe(prompt="a red apple", image=Image.new("RGB", (64, 64)), steps=1, given={"noise": torch.zeros(shape)})


def test_a_loop_takes_a_unit() -> None:
    def velocity(latents: torch.Tensor) -> torch.Tensor:
        return latents

    with pytest.raises(GraphError, match="Denoise takes the unit that predicts, got velocity; write @unit above its"):
        Denoise(velocity)


def test_a_configuration_is_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"from_config takes the fields of a configuration.* got int"):
        DDPMScheduler.from_config(3)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 5, 8, 8)])
def test_values_of_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=re.escape(f"a tensor [1, 1, 3 or 4, height, width], got {list(shape)}")):
        to_picture(torch.zeros(shape))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"num_images": 10**9}, "num_images must be at most 65536, got 1000000000"),
        ({"image": Image.new("RGB", (0, 0)), "strength": 0.5}, "image: must have pixels, got 0x0"),
        ({"prompt": "a" * 10**5}, f"the word '{'a' * 60}' is not in the vocabulary"),
    ],
)
def test_a_call_of_sizes_that_cannot_be_meant(pipe: TextToImagePipeline, inputs: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as error:
        pipe(**{"prompt": "a red apple", **inputs})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("cls", [DDPMPipeline, StableDiffusionPipeline])
def test_every_pipeline_has_the_same_limit_of_pictures(cls: type[DiffusionPipeline]) -> None:
    with pytest.raises(InputError, match="num_images must be at most 65536, got 1000000000"):
        cls().plan(num_images=10**9)


def test_an_adapter_that_is_not_finite(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    layer = pipe.transformer.proj_in
    pair = {"lora_A": torch.full((4, layer.in_features), torch.nan), "lora_B": torch.zeros(layer.out_features, 4)}
    save_file({f"transformer.proj_in.{n}.weight": t for n, t in pair.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"nan\.safetensors has NaN or infinity: 1 tensors: 'transformer.proj_in"):
        pipe.load_adapter(tmp_path / "nan.safetensors")
    assert not pipe.adapters


@pytest.mark.parametrize(
    ("subfolder", "said"),
    [
        ("vea", r"there is no folder .*vea; did you mean 'vae'\?$"),
        (
            "unet",
            r"there is no folder .*unet; the folders there are scheduler, text_encoder, tokenizer, transformer, vae$",
        ),
    ],
)
def test_a_folder_of_a_pipeline_that_is_not_there(subfolder: str, said: str) -> None:
    with pytest.raises(RepositoryError, match=said):
        MiniAutoencoderKL.from_pretrained("calotype/emoji-64", subfolder=subfolder)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LowRankChange(component="transformer", rank=0), "LowRankChange cannot .*'rank': .* to 1, got 0"),
        (lambda: LowRankChange(component="transformer", rnk=4), "'rnk' is not a field; did you mean 'rank'"),
        (LowRankChange, "'component' is missing"),
        (lambda: PictureFolder(path=3), "PictureFolder cannot .*'path': .*, got 3"),
    ],
)
def test_a_value_of_a_training_run(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_value_within_another_says_where_it_is() -> None:
    with pytest.raises(ConfigError, match=r"TrainingSettings cannot .*'target\.\w*\.?rank': .* to 1, got 0"):
        TrainingSettings(target={"kind": "lora", "component": "transformer", "rank": 0}, steps=1)


@pytest.mark.parametrize("data", [3, {"prompt": "a cat"}, "pictures"])
def test_rows_of_a_training_run(data: object) -> None:
    with pytest.raises(InputError, match=rf"data is a list of rows, .* got {type(data).__name__}"):
        as_rows(data)


def test_the_device_without_data_plans_and_does_not_compute() -> None:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="meta")
    assert "denoise" in str(pipe.plan(prompt="a cat"))
    with pytest.raises(ComponentError, match=r"on the device 'meta', which has no data: plan.* works there and a call"):
        pipe(prompt="a cat")
    with pytest.raises(InputError, match=r"placement\['vae'\]: the device 'meta' has no data, so nothing runs there"):
        TextToImagePipeline.from_pretrained("calotype/emoji-64", placement={"vae": "meta"})
