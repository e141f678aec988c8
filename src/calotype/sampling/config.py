"""Configurations of schedulers: frozen, validated, and read from and written to `scheduler_config.json`."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch

from calotype.atomic import atomic_file
from calotype.configured import BaseConfig, Configured
from calotype.described import BeforeValidator
from calotype.errors import ConfigError, RepositoryError
from calotype.paths import path_of

logger = logging.getLogger(__name__)

FILE_NAME = "scheduler_config.json"

_NAMES = """
    algorithm_type base_image_seq_len base_shift beta_end beta_schedule beta_start clip_sample clip_sample_range
    corrector_order disable_corrector dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift
    interpolation_type invert_sigmas lambda_min_clipped lower_order_final max_image_seq_len max_shift
    noise_sampler_seed num_train_timesteps original_inference_steps predict_x0 prediction_type predictor_order
    rescale_betas_zero_snr rho sample_max_value scale_factors set_alpha_to_one shift shift_terminal sigma_data
    sigma_max sigma_min sigma_schedule skip_prk_steps snr_shift_scale solver_order solver_p solver_type steps_offset
    stochastic_sampling tau_func thresholding time_shift_type timestep_scaling timestep_spacing timestep_type
    trained_betas upscale_mode use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas
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
    foreign: ClassVar[Mapping[str, frozenset[Any]]] = {}
    """Values that a field has in other schedulers of the family and not in this: `from_config` leaves them out."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Fields that files of this scheduler hold and its method has no use for. What a file says in them is kept, for
    schedulers that are made from this one; a caller who sets one is refused."""

    def __init__(self, **fields: Any) -> None:
        self.config = self.parse_config(fields)
        if unread := self._unread(self.config):
            if "_class_name" not in fields:
                self._refuse_unread(unread)
            logger.info("%s has no use for %s; kept", type(self).__name__, ", ".join(unread))

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self.config.model_dump(exclude_defaults=True).items())
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | SchedulerConfig, **changes: Any) -> Self:
        """A scheduler from a configuration, which may be that of another scheduler for the same kind of training.

        Fields that only other schedulers have are left out, and logged; so are the solvers that other schedulers name
        in `algorithm_type`, `solver_type` and `variance_type`. Fields that files hold and the method has no use for
        are kept, and logged. `changes` replace fields.

        Raises:
            ConfigError: a field belongs to no scheduler, the configuration describes another kind of training, or a
                change is one that the method has no use for.
        """
        if not isinstance(config, Mapping | SchedulerConfig):
            raise ConfigError(
                f"{cls.__name__}.from_config takes the fields of a configuration, such as other.config, got "
                f"{type(config).__name__}"
            )
        fields = dict(config)
        known = cls.Config.model_fields
        foreign = sorted(name for name in fields if name in ECOSYSTEM_FIELDS and name not in known)
        foreign += sorted(name for name in cls.foreign if name in fields and fields[name] in cls.foreign[name])
        cls._check_family(fields | changes)
        if foreign:
            logger.info("%s does not have %s; left out", cls.__name__, ", ".join(foreign))
        cls._refuse_unread(cls._unread(changes))
        taken = {name: value for name, value in fields.items() if name not in foreign}
        return cls(**{"_class_name": cls.__name__} | taken | changes)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **changes: Any,
    ) -> Self:
        """A scheduler from a folder with a `scheduler_config.json`, from the file itself, or from a hub.

        Args:
            source: a folder, the file, or `"owner/name"` on the hub.
            subfolder: the scheduler's folder in it.
            revision, cache_dir, local_files_only: as for a pipeline.
            changes: fields to replace.

        Raises:
            RepositoryError: there is no such file, or it is not a JSON object.
            ConfigError: the file describes another class, or has wrong fields.
        """
        from calotype.weights.aliases import SAME
        from calotype.weights.needed import fetch_file  # which no other use of a scheduler needs

        where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        path = fetch_file(source, subfolder, FILE_NAME, "scheduler", revision=revision, **where)
        fields = _read(path)
        name = fields.get("_class_name", cls.__name__)
        if SAME.get(name, name) != cls.__name__:
            raise ConfigError(
                f"{path} describes a {name}, not a {cls.__name__}; load it with that class, and turn it into this one "
                f"with {cls.__name__}.from_config(other.config)"
            )
        return cls.from_config(fields, **changes)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `scheduler_config.json` into `folder`: aside first, then renamed, so that it is never half written."""
        infinite = {name for name, value in self.config if value in (math.inf, -math.inf)}  # a default, left out
        content = {"_class_name": type(self).__name__} | self.config.model_dump(mode="json", exclude=infinite)
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        path = path_of(folder, "save_pretrained", "the path of a folder") / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as aside:
            aside.write_text(text, encoding="utf-8")

    @classmethod
    def _unread(cls, fields: Mapping[str, Any]) -> list[str]:
        """The fields without use that are given as another value than the default."""
        known = cls.Config.model_fields
        return sorted(name for name in cls.unread if name in fields and fields[name] != known[name].default)

    @classmethod
    def _refuse_unread(cls, names: Sequence[str]) -> None:
        if names:
            raise ConfigError(
                f"{cls.__name__} has no use for {', '.join(names)}: its method does not read it; leave it out"
            )

    @classmethod
    def _check_family(cls, fields: Mapping[str, Any]) -> None:
        """Refuses to read a flow-matching configuration as a diffusion one, and the other way round."""
        found = _family(fields)
        both = "use_flow_sigmas" in cls.Config.model_fields
        if found is None or found == cls.family or (both and found == "flow" and fields.get("use_flow_sigmas")):
            return
        raise ConfigError(
            f"{cls.__name__} is for {cls.family} models, and this configuration describes a {found} model; its "
            "network cannot be sampled with it"
            + (
                "; unless with use_flow_sigmas=True, prediction_type='flow_prediction'"
                if both and found == "flow"
                else ""
            )
        )


def _family(fields: Mapping[str, Any]) -> str | None:
    """The training that a configuration describes, or None where it does not say."""
    if fields.get("use_flow_sigmas") or "FlowMatch" in str(fields.get("_class_name", "")):
        return "flow"
    if "beta_start" in fields or "beta_schedule" in fields:
        return "diffusion"
    if "sigma_data" in fields:
        return "edm"
    return "flow" if "shift" in fields else None


def _read(path: Path) -> dict[str, Any]:
    from calotype.weights.strict_json import read_json  # as for every file of a repository

    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise RepositoryError(f"no scheduler at {path}; give a folder that holds a {FILE_NAME}") from None
    except ValueError as error:
        raise RepositoryError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RepositoryError(f"{path} must hold a JSON object, got a {type(fields).__name__}")
    return fields
