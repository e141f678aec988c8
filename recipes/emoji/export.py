"""Write the trained model as a pipeline folder in the ecosystem's layout, in 16-bit floats."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from calotype.nn.network import Network
from recipes.emoji.notice import NOTICE
from recipes.emoji.pool import tokenizer_of
from recipes.emoji.settings import PACKAGE_ASSETS, Preset
from recipes.emoji.train_autoencoder import load_autoencoder
from recipes.emoji.train_transformer import TextToVelocity, build

SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
INDEX = {
    "_class_name": "TextToImagePipeline",
    "_calotype_version": "0.1.0",
    "scheduler": ["calotype", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["calotype", "WordTextEncoder"],
    "tokenizer": ["calotype", "WordTokenizer"],
    "transformer": ["calotype", "MiniTransformer2DModel"],
    "vae": ["calotype", "MiniAutoencoderKL"],
}


def trained_model(preset: Preset) -> TextToVelocity:
    """The averaged weights of the newest checkpoint."""
    model = build(preset)
    state = torch.load(preset.folder / "transformer-checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["models"]["average"])
    return model.eval()


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_network(folder: Path, network: Network) -> None:
    """`config.json` and the weights in half precision."""
    config = {"_class_name": type(network).__name__, **network.config.model_dump(mode="json")}
    write_json(folder / "config.json", config)
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    path = folder / network.weights_name
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_repository(preset: Preset, folder: Path) -> None:
    model = trained_model(preset)
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    tokenizer_of(preset).save_pretrained(folder / "tokenizer")
    write_network(folder / "text_encoder", model.merged_text_encoder())
    write_network(folder / "transformer", model.transformer)
    write_network(folder / "vae", load_autoencoder(preset))
    (folder / "NOTICE").write_text(NOTICE)


def main(preset: Preset, target: Path | None = None) -> Path:
    """Write aside, then put in place."""
    target = target or PACKAGE_ASSETS / f"emoji-{preset.size}"
    aside = target.with_name(target.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_repository(preset, aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"exported {target.name}: {size / 1e6:.1f} MB")
    return target
