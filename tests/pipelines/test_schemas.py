"""The JSON schema of every pipeline's inputs."""

from typing import Any

import pytest

import calotype
from calotype import DiffusionPipeline
from calotype._names import PUBLIC

CLASSES = [getattr(calotype, name) for name in PUBLIC if name.endswith("Pipeline")]
PIPELINES = [cls for cls in CLASSES if issubclass(cls, DiffusionPipeline) and cls.units]


@pytest.mark.parametrize("cls", PIPELINES)
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_every_input_is_in_the_schema(cls: Any, mode: Any) -> None:
    schema = cls.Inputs.model_json_schema(mode=mode)
    names = {field.alias or name for name, field in cls.Inputs.model_fields.items()}
    assert schema["properties"].keys() == names
    if "generator" in names:  # no JSON is one
        kinds = schema["properties"]["generator"]["anyOf"]
        assert kinds[0]["not"] == {} and kinds[1:] == [{"type": "null"}]
