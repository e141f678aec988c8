"""What pictures show, as numbers."""

import numpy as np
from PIL import Image


def pixels(picture: Image.Image) -> np.ndarray:
    """A picture [h, w, 3] of levels 0 to 255."""
    return np.array(picture.convert("RGB")).astype(float)
