"""Limits on the predicted clean sample: thresholding is compared with the reference in `schedulers/`."""

import torch

from calotype.sampling.limit import Clip, DynamicThreshold


def test_clipping():
    assert Clip(2.0)(torch.tensor([-3.0, 1.0, 3.0])).tolist() == [-2.0, 1.0, 2.0]


def test_thresholding_is_per_item_and_never_stretches():
    items = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), 4.0)])
    assert DynamicThreshold(0.995, 10.0)(items).tolist() == [[[0.5] * 2] * 2, [[1.0] * 2] * 2]
    assert DynamicThreshold(0.995, 1.0)(items)[1].tolist() == [[1.0] * 2] * 2
