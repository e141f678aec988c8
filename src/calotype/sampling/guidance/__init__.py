"""Guidance: policies that say which branches of a prediction a step needs, and how they combine."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.sampling.guidance.auto import AutoGuidance, Weak
    from calotype.sampling.guidance.classifier_free import ClassifierFree
    from calotype.sampling.guidance.perturbed import PerturbedAttention, SkipLayers
    from calotype.sampling.guidance.policy import Guidance, NoGuidance, StatefulGuidance
    from calotype.sampling.guidance.predictions import Predictions
    from calotype.sampling.guidance.projected import APG
    from calotype.sampling.guidance.text_and_image import TextAndImage
    from calotype.sampling.guidance.wrapped import NormKept, Rescaled, Within
    from calotype.sampling.guidance.zero_star import CFGZeroStar

_WHERE = {
    "APG": "projected",
    "AutoGuidance": "auto",
    "CFGZeroStar": "zero_star",
    "ClassifierFree": "classifier_free",
    "Guidance": "policy",
    "NoGuidance": "policy",
    "PerturbedAttention": "perturbed",
    "NormKept": "wrapped",
    "Predictions": "predictions",
    "Rescaled": "wrapped",
    "SkipLayers": "perturbed",
    "StatefulGuidance": "policy",
    "TextAndImage": "text_and_image",
    "Weak": "auto",
    "Within": "wrapped",
}

__all__ = [
    "APG",
    "AutoGuidance",
    "CFGZeroStar",
    "ClassifierFree",
    "Guidance",
    "NoGuidance",
    "NormKept",
    "PerturbedAttention",
    "Predictions",
    "Rescaled",
    "SkipLayers",
    "StatefulGuidance",
    "TextAndImage",
    "Weak",
    "Within",
]

__getattr__ = lazy_names(__name__, _WHERE)
