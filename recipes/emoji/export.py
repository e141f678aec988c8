"""Write the trained model as a pipeline folder in the ecosystem's layout, in 16-bit floats."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from calotype import TextToImagePipeline
from calotype.nn.network import Network
from calotype.training.steps import RESULT
from recipes.emoji.notice import NOTICE
from recipes.emoji.settings import Preset
from recipes.emoji.train_transformer import Start, run_folder

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


def trained_folder(preset: Preset, start: Start) -> Path:
    """What the run left. Raises `FileNotFoundError` where it has not ended."""
    folder = run_folder(preset, start) / RESULT
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is not there: the transformer stage has not ended yet")
    return folder


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


def write_repository(source: Path, folder: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(source)
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    write_network(folder / "text_encoder", pipe.text_encoder)
    write_network(folder / "transformer", pipe.transformer)
    write_network(folder / "vae", pipe.vae)
    (folder / "NOTICE").write_text(NOTICE)


def main(preset: Preset, start: Start = "scratch", target: Path | None = None) -> Path:
    """Write aside, then put in place: into the package, or into another folder."""
    target = target or preset.shipped
    aside = target.with_name(target.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_repository(trained_folder(preset, start), aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"exported {target.name}: {size / 1e6:.1f} MB")
    return target
