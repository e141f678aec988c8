"""Pipelines, networks and schedulers from a hub: the real client against a hub on loopback."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load, save

from calotype import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, MiniAutoencoderKL, UNet2DModel
from calotype.errors import CalotypeError, ComponentError, InputError, RepositoryError, UnknownInput, WeightsError
from calotype.models.word_text_encoder import WordTokenizer
from calotype.pipelines.replay.again import load_for
from calotype.weights.components import load_components
from calotype.weights.needed import check_subfolder
from calotype.weights.repository import open_repository
from hub import TOKEN, Hub, read_files

TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NEEDED = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("made") / "ddpm"
    diffusers.DDPMPipeline(diffusers.UNet2DModel(**TINY), diffusers.DDPMScheduler()).save_pretrained(path)
    return path


@pytest.fixture
def files(folder: Path) -> dict[str, bytes]:
    """What repositories hold: besides what is needed, what is not."""
    half = save({name: tensor.half() for name, tensor in load((folder / WEIGHTS).read_bytes()).items()})
    return {
        **read_files(folder),
        "README.md": b"# Tiny",
        "unet/diffusion_pytorch_model.fp16.safetensors": half,
        "unet/diffusion_pytorch_model.bin": b"PK\x03\x04" * 2000,
        "unet/model.onnx": b"x" * 10_000,
        "tiny.ckpt": b"x" * 10_000,
        "samples/a.png": b"x" * 10_000,
    }


def fetched(hub: Hub) -> list[str]:
    return [line.partition(": ")[2] for line in hub.downloads()]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_pipeline_from_a_hub_is_the_one_of_the_folder(hub: Hub, files: dict[str, bytes], folder: Path) -> None:
    commit = hub.add("someone/tiny", files)
    pipe = DiffusionPipeline.from_pretrained("someone/tiny", device="cpu")
    assert type(pipe) is DDPMPipeline
    assert fetched(hub) == NEEDED
    local = DDPMPipeline.from_pretrained(folder, device="cpu")
    assert same(pipe.unet, local.unet)
    assert pipe.load_report is not None and pipe.load_report.revision == commit
    one, other = (p(seed=1, num_inference_steps=2, outputs=("latents",)).latents for p in (pipe, local))
    assert torch.equal(one, other)
    hub.forget()
    DDPMPipeline.from_pretrained("someone/tiny")
    assert fetched(hub) == []


def test_overrides_and_only_reduce_what_is_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("someone/tiny", files)
    unet = UNet2DModel(**TINY)
    assert DDPMPipeline.from_pretrained("someone/tiny", unet=unet).unet is unet
    assert fetched(hub) == NEEDED[:2]
    pipe = DDPMPipeline.from_pretrained("someone/tiny", only=["scheduler"])
    assert (pipe.unet, type(pipe.scheduler)) == (None, DDPMScheduler)
    assert fetched(hub) == NEEDED[:2]


def test_a_variant_is_fetched_alone(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("someone/tiny", files)
    pipe = DDPMPipeline.from_pretrained("someone/tiny", variant="fp16", dtype={"unet": "auto"})
    assert pipe.unet.dtype == torch.float16
    assert fetched(hub) == [*NEEDED[:3], "unet/diffusion_pytorch_model.fp16.safetensors"]
    assert DDPMPipeline.from_pretrained("someone/tiny", variant={"unet": "fp16"}).unet.dtype == torch.float32
    with pytest.raises(RepositoryError, match=r"tiny/unet has no .*ema\.safetensors; the variants there are the plain"):
        DDPMPipeline.from_pretrained("someone/tiny", variant="ema")
    with pytest.raises(UnknownInput, match="variant: 'unte' is not a component of this pipeline; did you mean 'unet'"):
        DDPMPipeline.from_pretrained("someone/tiny", variant={"unte": "fp16"})
    assert WEIGHTS not in fetched(hub)


def test_dtypes_by_component(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("someone/tiny", files)
    for dtype in ("bfloat16", torch.bfloat16, {"unet": "bfloat16", "default": "float16"}):
        assert DDPMPipeline.from_pretrained("someone/tiny", dtype=dtype).unet.dtype == torch.bfloat16


def test_shards_are_fetched_with_their_index(hub: Hub, files: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet")
    unet.save_pretrained(tmp_path / "unet", max_shard_size=20_000)
    shards = {f"unet/{path}": data for path, data in read_files(tmp_path / "unet").items()}
    rest = {path: data for path, data in files.items() if not path.startswith("unet/")}
    hub.add("someone/tiny", {**rest, **shards, "unet/old-00001-of-00009.safetensors": b"x" * 9})
    assert same(DDPMPipeline.from_pretrained("someone/tiny").unet, unet)
    assert fetched(hub) == sorted([*NEEDED[:2], *shards])
    lost = sorted(path for path in shards if path.endswith(".safetensors"))[:2]
    hub.add("someone/cut", {**rest, **{p: d for p, d in shards.items() if p not in lost}})
    names = ", ".join(path.removeprefix("unet/") for path in lost)
    with pytest.raises(WeightsError, match=f"but 2 are not there: {names}; download them"):
        DDPMPipeline.from_pretrained("someone/cut")


def test_one_revision_even_if_the_branch_moves_meanwhile(hub: Hub, files: dict[str, bytes]) -> None:
    old = hub.add("someone/tiny", files)
    zeros = save({name: tensor * 0 for name, tensor in load(files[WEIGHTS]).items()})

    def move(request: Any) -> None:
        if request.path.endswith("model_index.json") and request.method == "GET":
            hub.on_request = None
            hub.add("someone/tiny", {**files, WEIGHTS: zeros})

    hub.on_request = move
    first = DDPMPipeline.from_pretrained("someone/tiny")
    assert first.load_report is not None and first.load_report.revision == old
    assert first.unet.conv_in.weight.any()
    second = DDPMPipeline.from_pretrained("someone/tiny")
    assert not second.unet.conv_in.weight.any()
    assert same(DDPMPipeline.from_pretrained("someone/tiny", revision=old).unet, first.unet)
    assert same(DDPMPipeline.from_pretrained(f"someone/tiny@{old}").unet, first.unet)
    with pytest.raises(RepositoryError, match=r"names the revision 'v1', and revision='v2' was given; give one"):
        DDPMPipeline.from_pretrained("someone/tiny@v1", revision="v2")


def test_a_cut_download_is_resumed(hub: Hub, files: dict[str, bytes], folder: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub.add("someone/tiny", files)
    hub.cut(WEIGHTS, after=30_000)
    pipe = DDPMPipeline.from_pretrained("someone/tiny")
    assert same(pipe.unet, DDPMPipeline.from_pretrained(folder).unet)
    assert [request.range for request in hub.requests if request.range] == ["bytes=28672-"]


@pytest.mark.parametrize("how", ["no network", "local_files_only", "HF_HUB_OFFLINE"])
def test_offline_from_the_cache(hub: Hub, files: dict[str, bytes], monkeypatch: Any, how: str) -> None:
    hub.add("someone/tiny", files)
    pipe = DDPMPipeline.from_pretrained("someone/tiny")
    hub.forget()
    if how == "no network":
        hub.stop()
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options: dict[str, Any] = {"local_files_only": how == "local_files_only"}
    assert same(DiffusionPipeline.from_pretrained("someone/tiny", **options).unet, pipe.unet)
    assert same(UNet2DModel.from_pretrained("someone/tiny", subfolder="unet", **options), pipe.unet)
    with pytest.raises(RepositoryError, match=r"has no .*fp16\.safetensors; the variants there are the plain one"):
        DiffusionPipeline.from_pretrained("someone/tiny", variant="fp16", **options)
    with pytest.raises(RepositoryError, match=r"revision 'main' of the repository .* has nothing of it; load it once"):
        DiffusionPipeline.from_pretrained("someone/other", **options)
    assert hub.requests == []


def test_what_was_not_downloaded_is_not_there_offline(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("someone/tiny", files)
    DDPMPipeline.from_pretrained("someone/tiny", only=["scheduler"])
    with pytest.raises(
        RepositoryError, match="there is no folder someone/tiny/unet in the cache, and local_files_only"
    ):
        DDPMPipeline.from_pretrained("someone/tiny", local_files_only=True)


def test_another_cache_folder(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("someone/tiny", files)
    DDPMPipeline.from_pretrained("someone/tiny", cache_dir=tmp_path / "mine")
    assert not (tmp_path / "hub-cache").exists()
    DDPMPipeline.from_pretrained("someone/tiny", cache_dir=tmp_path / "mine", local_files_only=True)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (
            "someone/tyni",
            {},
            RepositoryError,
            "there is no folder 'someone/tyni', and no repository of that id on http:",
        ),
        ("someone/tiny", {"revision": "v9"}, RepositoryError, "someone/tiny has no branch, tag or commit 'v9'"),
        ("someone/tiny@v9", {}, RepositoryError, "someone/tiny has no branch, tag or commit 'v9'"),
        ("someone/tiny", {"revision": "../../x"}, RepositoryError, "revision must be a branch"),
        ("someone/tiny", {"variant": "../x"}, InputError, "variant must be a word such as 'fp16'"),
        ("someone/tiny", {"revison": "main"}, UnknownInput, "option 'revison'; did you mean 'revision'"),
        ("someone/tiny", {"only": 3}, InputError, "only must be a list of component names, got 3"),
        ("someone/tiny", {"check": "finit"}, InputError, "check must be 'finite' or None, got 'finit'"),
        ("someone/tiny", {"dtype": "float61"}, InputError, "'float61'; did you mean 'float64'"),
        ("someone/network", {}, RepositoryError, "a config.json: it holds one network, not a pipeline; load it with"),
        ("someone/empty", {}, RepositoryError, "has no model_index.json, so it is not a pipeline; it has README.md"),
        ("calotype/emoji-65", {}, RepositoryError, "no model 'calotype/emoji-65' ships with calotype; did you mean"),
        ("calotype/emoji-64", {"revision": "main"}, RepositoryError, "is on this machine and has no revisions"),
    ],
)
def test_what_is_wrong_is_said(
    hub: Hub, files: dict[str, bytes], source: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    hub.add("someone/tiny", files)
    hub.add("someone/network", {"config.json": "{}"})
    hub.add("someone/empty", {"README.md": "#"})
    with pytest.raises(error, match=message):
        DDPMPipeline.from_pretrained(source, **options)
    assert WEIGHTS not in fetched(hub)


def test_a_repository_that_moved_or_vanished(hub: Hub, files: dict[str, bytes], caplog: Any) -> None:
    hub.add("someone/tiny", files)
    hub.move("someone/tiny", "else/where")
    with caplog.at_level(logging.WARNING):
        DDPMPipeline.from_pretrained("someone/tiny")
    assert "someone/tiny has moved to else/where; use that name" in caplog.text
    del hub.moved["someone/tiny"]
    with pytest.raises(RepositoryError, match="no repository of that id"):
        DDPMPipeline.from_pretrained("someone/tiny")


def test_gated(hub: Hub, files: dict[str, bytes], monkeypatch: Any) -> None:
    hub.add("someone/gated", files, gated=True)
    with pytest.raises(RepositoryError, match="someone/gated is gated: accept its terms"):
        DDPMPipeline.from_pretrained("someone/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert DDPMPipeline.from_pretrained("someone/gated").unet is not None


def test_networks_and_schedulers_alone(hub: Hub, files: dict[str, bytes], folder: Path) -> None:
    commit = hub.add("someone/tiny", files)
    unet = UNet2DModel.from_pretrained("someone/tiny", subfolder="unet", revision=commit)
    assert same(unet, UNet2DModel.from_pretrained(folder, subfolder="unet"))
    assert fetched(hub) == NEEDED[2:]
    half = UNet2DModel.from_pretrained("someone/tiny", subfolder="unet", variant="fp16", dtype="auto", check="finite")
    assert half.dtype == torch.float16
    hub.forget()
    scheduler = DDPMScheduler.from_pretrained("someone/tiny", subfolder="scheduler", clip_sample=False)
    assert scheduler.config.clip_sample is False
    assert fetched(hub) == ["scheduler/scheduler_config.json"]
    with pytest.raises(
        RepositoryError, match=r"there is scheduler/scheduler_config.json: give its folder as subfolder="
    ):
        DDPMScheduler.from_pretrained("someone/tiny")
    with pytest.raises(RepositoryError, match="holds a whole pipeline: give the network's folder in it as subfolder="):
        UNet2DModel.from_pretrained("someone/tiny")
    with pytest.raises(RepositoryError, match="there is no folder 'unte', its folders are samples, scheduler, unet"):
        UNet2DModel.from_pretrained("someone/tiny", subfolder="unte")
    for wrong in ("../unet", "/unet", "a\\..\\b"):
        for cls in (UNet2DModel, DDIMScheduler):
            with pytest.raises(InputError, match="subfolder must be a path below someone/tiny"):
                cls.from_pretrained("someone/tiny", subfolder=wrong)


def test_a_shipped_model_is_a_repository_for_networks_too(hub: Hub) -> None:
    assert WordTokenizer.from_pretrained("calotype/emoji-64", subfolder="tokenizer").max_length > 0
    assert MiniAutoencoderKL.from_pretrained("calotype/emoji-64", subfolder="vae").config.latent_channels > 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "subfolder", "message"),
    [
        (None, "unet", "from_pretrained takes a folder or 'owner/name', got None"),
        ("someone/tiny", 3, "subfolder must be a path below someone/tiny, got 3"),
    ],
)
def test_what_is_no_path(source: Any, subfolder: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_subfolder(source, subfolder)


def test_a_tokenizer_alone(hub: Hub, tmp_path: Path) -> None:
    WordTokenizer(["a", "red"], max_length=4).save_pretrained(tmp_path / "tokenizer")
    hub.add("someone/words", {**read_files(tmp_path), "unet/model.safetensors": b"x" * 9}, branch="v1")
    found = WordTokenizer.from_pretrained("someone/words", subfolder="tokenizer", revision="v1")
    assert (found.words, found.max_length) == (("a", "red"), 4)
    assert fetched(hub) == ["tokenizer/tokenizer.json"]
    with pytest.raises(RepositoryError, match=r"no tokenizer.json, so no tokenizer; there is tokenizer/tokenizer.json"):
        WordTokenizer.from_pretrained("someone/words@v1")


def test_a_pipeline_is_saved_in_shards_of_a_variant(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("someone/tiny", files)
    pipe = DDPMPipeline.from_pretrained("someone/tiny")
    pipe.save_pretrained(tmp_path / "saved", variant="fp16", max_shard_size=20_000)
    names = {path.name for path in (tmp_path / "saved/unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names and len(names) > 3
    hub.add("someone/shards", tmp_path / "saved")
    assert same(DDPMPipeline.from_pretrained("someone/shards", variant="fp16").unet, pipe.unet)
    with pytest.raises(InputError, match="variant must be a word"):
        pipe.save_pretrained(tmp_path / "saved", variant="../x")
    with pytest.raises(InputError, match="max_shard_size"):
        pipe.save_pretrained(tmp_path / "saved", max_shard_size="much")


def test_progress_is_shown(hub: Hub, files: dict[str, bytes], monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # as on a terminal
    hub.add("someone/tiny", files)
    DDPMPipeline.from_pretrained("someone/tiny")
    shown = capfd.readouterr().err
    assert f"{WEIGHTS[-40:]}: 100%" in shown


def test_the_first_layout(hub: Hub, files: dict[str, bytes], folder: Path) -> None:
    flat = {path.rpartition("/")[2]: data for path, data in files.items() if path.startswith(("unet/", "scheduler/"))}
    hub.add("someone/old", {**flat, "model_index.json": files["model_index.json"], "big/x.safetensors": b"x" * 9})
    assert same(DDPMPipeline.from_pretrained("someone/old").unet, DDPMPipeline.from_pretrained(folder).unet)
    assert fetched(hub) == sorted(path.rpartition("/")[2] for path in NEEDED)


def test_components_of_other_libraries(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=10, **size))
    encoder.save_pretrained(tmp_path / "p/text_encoder")
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    vae.save_pretrained(tmp_path / "p/vae", max_shard_size="5KB")
    (tmp_path / "p/tokenizer").mkdir()
    words = {token: k for k, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"])}
    (tmp_path / "p/tokenizer/vocab.json").write_text(json.dumps(words))
    (tmp_path / "p/tokenizer/merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPImageProcessor().save_pretrained(tmp_path / "p/feature_extractor")
    index = {
        "_class_name": "P",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    extra = {"vae/x.bin": b"x", "text_encoder/flax_model.msgpack": b"x", "tokenizer/README.md": b"x"}
    needed = {**read_files(tmp_path / "p"), "model_index.json": json.dumps(index).encode()}
    hub.add("someone/parts", {**needed, **extra})
    parts = load_components(open_repository("someone/parts"), dtype={"vae": "float16"})
    assert fetched(hub) == sorted(needed)
    assert same(parts["text_encoder"].text_model, encoder) and same(parts["vae"], vae.half())
    assert parts["tokenizer"]("a b", add_special_tokens=False)["input_ids"] == [2, 3]
    assert type(parts["feature_extractor"]).__name__.startswith("CLIPImageProcessor")


def test_weights_that_are_not_finite_are_named_in_every_library(hub: Hub, tmp_path: Path) -> None:
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    with torch.no_grad():
        vae.encoder.conv_in.bias[1] = float("nan")
    vae.save_pretrained(tmp_path / "vae")
    index = {"model_index.json": '{"_class_name": "P", "vae": ["diffusers", "AutoencoderKL"]}'}
    hub.add("someone/nan", {**index, **{f"vae/{p}": d for p, d in read_files(tmp_path / "vae").items()}})
    with pytest.raises(WeightsError, match=r"NaN or infinity: 1 tensors: 'encoder\.conv_in\.bias' \(1 of 8 values\)"):
        load_components(open_repository("someone/nan"), check="finite")


# what indexes say


def with_index(files: dict[str, bytes], **entries: Any) -> dict[str, bytes]:
    index = {**json.loads(files["model_index.json"]), **entries}
    return {**files, "model_index.json": json.dumps(index).encode()}


def test_what_the_class_does_not_take_is_reported_and_not_fetched(
    hub: Hub, files: dict[str, bytes], caplog: Any
) -> None:
    entries = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "evil": ["os", "system"]}
    given = with_index({**files, "safety_checker/model.safetensors": b"x" * 9, "evil/x.json": b"{}"}, **entries)
    hub.add("someone/tiny", given)
    with caplog.at_level(logging.INFO, "calotype"):
        report = DDPMPipeline.from_pretrained("someone/tiny").load_report
    assert report is not None
    assert report.unused == {
        "safety_checker": "['stable_diffusion', 'StableDiffusionSafetyChecker']",
        "evil": "['os', 'system']",
    }
    assert "not loaded: evil ['os', 'system']" in str(report) and str(report) in caplog.text
    assert fetched(hub) == NEEDED
    assert DDPMPipeline(unet=None, scheduler=DDPMScheduler()).load_report is None


def test_an_index_imports_nothing(hub: Hub, files: dict[str, bytes], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    code = {"evil.py": b"raise SystemExit('run')", "unet/evil.py": b"raise SystemExit('run')"}
    entries: list[tuple[dict[str, Any], str]] = [
        (
            {"unet": ["evil", "UNet"]},
            r"the repository carries the code of this component, unet/evil.py, which is not run",
        ),
        ({"unet": ["json", "JSONDecoder"]}, "nothing else is imported because an index says so"),
        ({"_class_name": "evil"}, "calotype does not have"),
        ({"_class_name": ["evil", "Evil"]}, "evil.py"),
        ({"_class_name": "evil.Evil"}, "calotype does not have"),
        ({"_class_name": "os:system"}, "calotype does not have"),
        ({"_class_name": "../evil"}, "calotype does not have"),
        ({"../evil": ["diffusers", "UNet2DModel"]}, r"'\.\./evil' cannot be a component's name"),
    ]
    for k, (changed, message) in enumerate(entries):
        hub.add(f"someone/evil{k}", with_index({**files, **code}, **changed))
        with pytest.raises(CalotypeError, match=message):
            DiffusionPipeline.from_pretrained(f"someone/evil{k}")
    assert "evil" not in sys.modules


def test_a_class_of_ones_own_loads_a_repository_that_carries_code(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("someone/code", with_index({**files, "mine.py": b"raise SystemExit('run')"}, _class_name=["mine", "Mine"]))
    assert DDPMPipeline.from_pretrained("someone/code").unet is not None
    assert "mine.py" not in fetched(hub)


def install(site: Path, value: str, name: str = "acme-pipelines") -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[calotype.pipelines]\nAcmePipeline = {value}\n")


def test_a_pipeline_class_of_an_installed_package(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    hub.add("someone/acme", with_index(files, _class_name="AcmePipeline"))
    with pytest.raises(RepositoryError, match=r"nor any installed package under the entry point 'calotype.pipelines'"):
        DiffusionPipeline.from_pretrained("someone/acme")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acme_one.py").write_text(
        "from calotype import DDPMPipeline\n\n\nclass AcmePipeline(DDPMPipeline):\n    pass\n\n\nnumber = 3\n"
    )
    install(tmp_path, "acme_one:AcmePipeline")
    try:
        pipe = DiffusionPipeline.from_pretrained("someone/acme")
        assert (type(pipe).__module__, type(pipe).__name__) == ("acme_one", "AcmePipeline")
        install(tmp_path, "acme_one:number", "acme-other")
        with pytest.raises(RepositoryError, match=r"several installed packages offer 'AcmePipeline': .*acme-other"):
            DiffusionPipeline.from_pretrained("someone/acme")
    finally:
        sys.modules.pop("acme_one", None)


@pytest.mark.parametrize(
    ("value", "message"),
    [("acme_two:number", "which is not a pipeline"), ("acme_two:gone", "acme-pipelines offers .* cannot be imported")],
)
def test_a_package_that_offers_no_pipeline(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, monkeypatch: Any, value: str, message: str
) -> None:
    hub.add("someone/acme", with_index(files, _class_name="AcmePipeline"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acme_two.py").write_text("number = 3\n")
    install(tmp_path, value)
    try:
        with pytest.raises(RepositoryError, match=message):
            DiffusionPipeline.from_pretrained("someone/acme")
    finally:
        sys.modules.pop("acme_two", None)


def test_a_picture_is_replayed_from_the_commit_it_was_made_from(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.add("someone/tiny", files)
    pipe = DDPMPipeline.from_pretrained("someone/tiny", device="cpu")
    recipe = pipe(seed=1, num_inference_steps=1).recipe
    assert recipe.source == f"someone/tiny@{commit}"
    zeros = save({name: tensor * 0 for name, tensor in load(files[WEIGHTS]).items()})
    hub.add("someone/tiny", {**files, WEIGHTS: zeros})
    assert same(load_for(recipe, tmp_path / "x.png").components["unet"], pipe.unet)
    with pytest.raises(ComponentError, match="'unet' is not the same"):
        load_for(recipe, tmp_path / "x.png", source="someone/tiny")
