"""Configurations of schedulers: frozen, validated, and read from and written to `scheduler_config.json`."""

import inspect
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from calotype.errors import ConfigError, RepositoryError, did_you_mean

logger = logging.getLogger(__name__)

FILE_NAME = "scheduler_config.json"

_NAMES = """
    algorithm_type base_image_seq_len base_shift beta_end beta_schedule beta_start clip_sample clip_sample_range
    disable_corrector dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type
    invert_sigmas lambda_min_clipped lower_order_final max_image_seq_len max_shift num_train_timesteps
    original_inference_steps predict_x0 prediction_type rescale_betas_zero_snr sample_max_value set_alpha_to_one
    shift shift_terminal sigma_data sigma_max sigma_min skip_prk_steps snr_shift_scale solver_order solver_p
    solver_type steps_offset stochastic_sampling thresholding time_shift_type timestep_scaling timestep_spacing
    timestep_type trained_betas use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas
    use_karras_sigmas use_lu_lambdas variance_type
"""

ECOSYSTEM_FIELDS = frozenset(_NAMES.split())
"""Fields of the ecosystem's schedulers. Published files carry fields of other schedulers than their own."""


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_list)]


class SchedulerConfig(BaseModel):
    """What describes one scheduler. Frozen; its fields are also read by name, `config["beta_start"]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in type(self).model_fields

    def keys(self) -> Iterator[str]:
        """The names of the fields, so that `dict(config)` and `**config` work."""
        return iter(type(self).model_fields)

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`, or `default` where this scheduler has none."""
        return getattr(self, name) if name in self else default


class Configured:
    """Something that is described by its `Config`, whose fields are the constructor's keywords.

    Raises:
        ConfigError: a field is unknown or has a value that it does not take.
    """

    Config: ClassVar[type[SchedulerConfig]]
    family: ClassVar[str]
    """Schedulers of one family describe the same training, so that one's configuration can be turned into another's."""

    config: Any  # a subclass narrows it to its own Config

    def __init__(self, **fields: Any) -> None:
        given = {name: value for name, value in fields.items() if not name.startswith("_")}
        try:
            self.config = self.Config(**given)
        except ValidationError as error:
            raise ConfigError(_explain(type(self).__name__, self.Config, error)) from None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" in cls.__dict__:
            cls.__signature__ = inspect.signature(cls.Config)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self.config.model_dump(exclude_defaults=True).items())
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | SchedulerConfig, **changes: Any) -> Self:
        """A scheduler from a configuration, which may be that of another scheduler for the same kind of training.

        Fields that only other schedulers have are left out, and logged. `changes` replace fields.

        Raises:
            ConfigError: a field belongs to no scheduler, or the configuration describes another kind of training.
        """
        fields = dict(config)
        known = cls.Config.model_fields
        foreign = sorted(name for name in fields if name in ECOSYSTEM_FIELDS and name not in known)
        cls._check_family(fields)
        if foreign:
            logger.info("%s does not have %s; left out", cls.__name__, ", ".join(foreign))
        return cls(**{name: value for name, value in fields.items() if name not in foreign} | changes)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], subfolder: str | None = None, **changes: Any) -> Self:
        """A scheduler from a folder with a `scheduler_config.json`, or from the file itself.

        Raises:
            RepositoryError: there is no such file, or it is not a JSON object.
            ConfigError: the file describes another class, or has wrong fields.
        """
        path = Path(folder, subfolder or "")
        fields = _read(path / FILE_NAME if path.is_dir() else path)
        name = fields.get("_class_name", cls.__name__)
        if name != cls.__name__:
            raise ConfigError(
                f"{path} describes a {name}, not a {cls.__name__}; load it with that class, and turn it into this one "
                f"with {cls.__name__}.from_config(other.config)"
            )
        return cls.from_config(fields, **changes)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `scheduler_config.json` into `folder`: aside first, then renamed, so that it is never half written."""
        content = {"_class_name": type(self).__name__} | self.config.model_dump(mode="json")
        write_aside(Path(folder) / FILE_NAME, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")

    @classmethod
    def _check_family(cls, fields: Mapping[str, Any]) -> None:
        """Refuses to read a flow-matching configuration as a diffusion one, and the other way round."""
        flow = "FlowMatch" in str(fields.get("_class_name", "")) or ("shift" in fields and "beta_start" not in fields)
        diffusion = "beta_start" in fields or "beta_schedule" in fields
        if (cls.family == "diffusion" and flow) or (cls.family == "flow" and diffusion):
            raise ConfigError(
                f"{cls.__name__} is for {cls.family} models, and this configuration describes a "
                f"{'flow' if flow else 'diffusion'} model; its network cannot be sampled with it"
            )


def write_aside(path: Path, text: str) -> None:
    """Writes a text file in one stroke, by way of a temporary file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as aside:
        try:
            aside.write(text)
            aside.flush()
            Path(aside.name).chmod(0o644)
            Path(aside.name).replace(path)
        except BaseException:
            Path(aside.name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RepositoryError(f"no scheduler at {path}; give a folder that holds a {FILE_NAME}") from None
    except ValueError as error:
        raise RepositoryError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RepositoryError(f"{path} must hold a JSON object, got a {type(fields).__name__}")
    return fields


def _explain(owner: str, config: type[SchedulerConfig], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name!r} is not a field{did_you_mean(name, config.model_fields)}")
        else:
            lines.append(f"{name!r}: {problem['msg']}, got {problem['input']!r}" if name else problem["msg"])
    return f"{owner} cannot be made from this configuration: " + "; ".join(lines)
