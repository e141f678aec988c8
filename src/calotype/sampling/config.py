"""Configurations of schedulers: frozen, validated, and read from and written to `scheduler_config.json`."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import BeforeValidator

from calotype.atomic import atomic_file
from calotype.configured import BaseConfig, Configured
from calotype.errors import ConfigError, RepositoryError

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


class SchedulerConfig(BaseConfig):
    """What describes one scheduler."""


class ConfiguredScheduler(Configured):
    """Something that is described by its `Config`, whose fields are the constructor's keywords.

    Raises:
        ConfigError: a field is unknown or has a value that it does not take.
    """

    Config: ClassVar[type[BaseConfig]] = SchedulerConfig
    family: ClassVar[str]
    """Schedulers of one family describe the same training, so that one's configuration can be turned into another's."""

    def __init__(self, **fields: Any) -> None:
        self.config = self.parse_config(fields)

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
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as aside:
            aside.write_text(text, encoding="utf-8")

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
