"""A dialect of calotype: pipelines written as `BasePipeline` with `PipelineUnit`s, `model_fn` and a `__call__`.

It is run by the same engine: units become nodes of the graph, so that `plan`, `split`, `draw` and the checks work, and
what is declared wrongly is an error. `docs/dialect.md` lists what the dialect means here, and every error.
"""

from calotype.compat.diffsynth.pipeline import BasePipeline
from calotype.compat.diffsynth.runner import PipelineUnitRunner
from calotype.compat.diffsynth.scheduler import FlowMatchScheduler
from calotype.compat.diffsynth.unit import PipelineUnit
from calotype.weights.pool.config import ModelConfig
from calotype.weights.pool.pool import ModelPool

__all__ = ["BasePipeline", "FlowMatchScheduler", "ModelConfig", "ModelPool", "PipelineUnit", "PipelineUnitRunner"]
