"""Step caches: what a loop takes over from steps before instead of computing it anew."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.sampling.caching.first_block import FirstBlockCache
    from calotype.sampling.caching.magnitude import MagCache
    from calotype.sampling.caching.policy import StepCache
    from calotype.sampling.caching.taylor import TaylorCache
    from calotype.sampling.caching.tea import TeaCache

_WHERE = {
    "FirstBlockCache": "first_block",
    "MagCache": "magnitude",
    "StepCache": "policy",
    "TaylorCache": "taylor",
    "TeaCache": "tea",
}

__all__ = ["FirstBlockCache", "MagCache", "StepCache", "TaylorCache", "TeaCache"]

__getattr__ = lazy_names(__name__, _WHERE)
