"""What `from_single_file` does: a pipeline out of one file of all its networks, as the original code wrote them."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from calotype.errors import ComponentError, ConfigError, InputError, did_you_mean
from calotype.pipelines.declared import declared_settings, wanted_components
from calotype.pipelines.loading.checkpoint import Checkpoint, open_checkpoint
from calotype.pipelines.loading.pretrained import assemble, refuse_unknown
from calotype.pipelines.loading.report import LoadReport
from calotype.pipelines.memory.budgets import loading
from calotype.weights.components import fetch_index, load_components
from calotype.weights.kinds import fits, is_a
from calotype.weights.model_index import ModelIndex, read_json_object
from calotype.weights.needed import has_weights
from calotype.weights.original.family import is_trained_to_pure_noise, prediction_type, trained_size
from calotype.weights.original.unused import UNKNOWN, by_kind
from calotype.weights.pool.catalogue import CATALOGUE
from calotype.weights.pool.config import ModelConfig
from calotype.weights.pool.pool import ModelPool
from calotype.weights.registry import resolve
from calotype.weights.repository import Repository, open_repository

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

P = TypeVar("P", bound="DiffusionPipeline")

logger = logging.getLogger(__name__)

OPTIONS = (
    "filename", "config", "prediction_type", "dtype", "torch_dtype", "revision", "cache_dir", "local_files_only",
)  # fmt: skip
"""What `from_single_file` takes besides components and the options of the class."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def load_single_file(
    cls: type[P],
    source: str | PathLike[str],
    components: Mapping[str, Any],
    *,
    filename: str | None,
    config: str | PathLike[str] | None,
    prediction_type: str | None,
    dtype: Any,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    local_files_only: bool,
    **options: Any,
) -> P:
    """The pipeline of `cls`, or of the class that the file's family has where `cls` is the base. See
    `DiffusionPipeline.from_single_file`."""
    if prediction_type is not None and prediction_type not in PREDICTIONS:
        near = did_you_mean(str(prediction_type), PREDICTIONS)
        raise InputError(f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {prediction_type!r}{near}")
    if isinstance(dtype, Mapping):
        raise InputError("from_single_file takes one dtype for all networks; pipe.unet.to(...) changes one of them")
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    file = open_checkpoint(source, filename, revision, where)
    beside = None if config is None else open_repository(config, **where)
    index = ModelIndex(cls.__name__, {}) if beside is None else fetch_index(beside)
    target = _target(cls, file, index)
    wanted, optional = wanted_components(target, target._declared if target.units else None, index.extras)
    refuse_unknown(target, components, wanted, method="from_single_file", options=OPTIONS)
    settings = declared_settings(target._declared) if target.units else frozenset()
    sought = {n: kind for n, kind in wanted.items() if n not in components and n not in settings}

    pool = ModelPool(ModelConfig(path=file.path, config=_configs(beside, index, sought)), dtype=dtype)
    networks = {n: kind for n, kind in sought.items() if _is_network(kind)}
    needed = {n for n in networks if n not in optional or n in file.encoders or index.components.get(n) is not None}
    _check_fits(target, file, pool, {n: networks[n] for n in networks if n in needed}, wanted)
    others = _others(beside, index, {n: kind for n, kind in sought.items() if n not in networks}, optional)
    given = {name: component for name, component in components.items() if component is not None}
    held = {**others, **given}
    if "scheduler" in wanted and components.get("scheduler", file) is not None:
        held["scheduler"] = _scheduler(file, held.get("scheduler"), prediction_type, "scheduler" in given)
    deferred: bool = loading(options.get("memory"), options.get("device"))["deferred"]
    held |= pool.components_for(networks, deferred=deferred)
    if beside is None and "unet" not in given:
        _tell_size(file, **{name: held.get(name) for name in ("unet", "vae", "scheduler")})
    read = {f"tokenizer{name.removeprefix('text_encoder')}" for name in held if name.startswith("text_encoder")}
    _check_there(
        target, [n for n in sought if n not in held and n not in networks and (n not in optional or n in read)]
    )
    extras = {**(file.family.settings if file.family else {}), **index.extras}
    absent = {name for name in wanted if name not in held and name not in settings}
    pipe = assemble(target, held, absent, replace(index, extras=extras), **options)
    pipe._source = file.source if file.revision is None else f"{file.source}@{file.revision}"
    pipe._report = _reported(file, pool)
    return pipe


# -- the pipeline ------------------------------------------------------------------------------------------------------


def _target(cls: type[P], file: Checkpoint, index: ModelIndex) -> type[P]:
    """The class to make: `cls`, or where it is the base, the one that the file's family has."""
    from calotype.pipelines.base import DiffusionPipeline  # it imports this module

    if cls is not DiffusionPipeline:
        return cls
    if file.pipeline is None:
        raise InputError(
            f"{file.path} does not say which pipeline it is for; call from_single_file on its class: "
            "StableDiffusionPipeline.from_single_file(...)"
        )
    found: Any = resolve("calotype", file.pipeline)
    target: type[P] = found
    return target


def _is_network(kind: Any) -> bool:
    """Whether a component of this type comes out of the file: a network of the catalogue."""
    sources = [model.source for model in CATALOGUE]
    return kind is not None and any(s == kind or (isinstance(s, type) and is_a(s, kind)) for s in sources)


def _configs(beside: Repository | None, index: ModelIndex, sought: Collection[str]) -> dict[str, Any] | None:
    """The `config.json` of every network, by the catalogue's name of it, where a repository is given that has them."""
    if beside is None:
        return None
    by_class = {_name_of(model.source): model.model_name for model in CATALOGUE}
    refs = {name: ref for name, ref in index.components.items() if ref is not None and name in sought}
    paths = {
        by_class[ref.class_name]: f"{name}/config.json" for name, ref in refs.items() if ref.class_name in by_class
    }
    folder = beside.fetch(paths.values())
    return {model: read_json_object(folder / path, missing="") for model, path in paths.items()}


def _name_of(source: type | str) -> str:
    return source.partition(":")[2] if isinstance(source, str) else source.__name__


def _others(
    beside: Repository | None, index: ModelIndex, sought: Mapping[str, Any], optional: Collection[str]
) -> dict[str, Any]:
    """What no file of weights holds: tokenizers and the scheduler, out of a repository."""
    if beside is None:
        return {}
    refs = {name: index.components.get(name) for name in sought}
    small = {
        n: sought[n] for n, r in refs.items() if r is not None and not has_weights(resolve(r.library, r.class_name))
    }
    found = load_components(beside, small, optional=optional, index=index)
    return {name: component for name, component in found.items() if component is not None}


def _check_fits(
    cls: type[Any],
    file: Checkpoint,
    pool: ModelPool,
    networks: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> None:
    """Raise unless the file has the networks that the pipeline needs, and the pipeline takes those that it has."""
    there = {model.model_name: CATALOGUE[model.model_name].cls for report in pool.report for model in report.models}
    alien = [n for n, found in there.items() if not any(k is not None and fits(found, k) for k in wanted.values())]
    lost = [n for n, kind in networks.items() if not any(fits(found, kind) for found in there.values())]
    looks = file.instead_of(cls)
    if alien:
        raise ComponentError(f"{file.path} holds {', '.join(alien)}, which {cls.__name__} does not take{looks}")
    if lost:
        raise ComponentError(
            f"{file.path} holds {', '.join(there)}, but {cls.__name__} needs {', '.join(lost)} too{looks}; give "
            f"{lost[0]}= yourself"
        )


def _check_there(cls: type[Any], lost: list[str]) -> None:
    """Raise when components are missing that no single file holds."""
    if lost:
        raise ComponentError(
            f"{cls.__name__} needs {', '.join(lost)}, which no single file holds: give "
            f"{', '.join(f'{name}=' for name in lost)}, or config=, the folder or id of a repository of the same "
            "family that has them"
        )


# -- the scheduler -----------------------------------------------------------------------------------------------------


def _scheduler(file: Checkpoint, found: Any, asked: str | None, is_given: bool) -> Any:
    """The scheduler that was given or that the repository has, checked against what the file says of itself; or the one
    that was published with its family.

    Raises:
        ConfigError: nothing says what the denoiser predicts, or two things say otherwise.
    """
    said = prediction_type(file.whole)
    if found is None:
        return _published_scheduler(file, asked or said)
    has = getattr(found.config, "prediction_type", None)
    if asked is None and said is not None and has is not None and has != said:
        raise ConfigError(
            f"{file.path} says that its denoiser predicts {said!r}, but the scheduler is for {has!r}; give "
            f"prediction_type={said!r} to believe the file, {has!r} to believe the scheduler"
        )
    if asked is None or asked == has:
        return found
    if is_given:
        raise InputError(f"scheduler= is for {has!r} and prediction_type={asked!r} is given; give one of them")
    return type(found)(**{**found.config.model_dump(), "prediction_type": asked})


def _published_scheduler(file: Checkpoint, prediction: str | None) -> Any:
    family = file.family
    if family is None:
        raise ConfigError(
            f"{file.path} is of no known family, so its scheduler is not known; give scheduler= or config="
        )
    prediction = prediction or family.predictions.get(file.channels or 0, family.prediction_type)
    if prediction is None:
        raise ConfigError(
            f"{file.path} is of {family.name}, whose files look the same whether the denoiser predicts noise (those of "
            "512 pixels) or velocity (of 768), and it does not say; give prediction_type='epsilon' or 'v_prediction', "
            "scheduler= or config="
        )
    fields = {name: value for name, value in family.scheduler.items() if name != "_class_name"}
    if is_trained_to_pure_noise(file.whole):
        fields |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    cls = resolve("diffusers", family.scheduler["_class_name"])
    return cls(**fields, prediction_type=prediction)


def _tell_size(file: Checkpoint, unet: Any, vae: Any, scheduler: Any) -> None:
    """Have a denoiser whose tensors do not say how large a picture it was trained with say so in its config."""
    if file.family is None or None in (unet, vae, scheduler) or unet.config.sample_size is not None:
        return
    prediction = getattr(scheduler.config, "prediction_type", "")
    size = trained_size(file.whole, file.family, prediction, vae.config.downscale)
    unet.config = unet.config.model_copy(update={"sample_size": size})


def _reported(file: Checkpoint, pool: ModelPool) -> LoadReport:
    """What is worth knowing afterwards; also logged."""
    models = [model for report in pool.report for model in report.models]
    unclaimed = [key for report in pool.report for key in report.unclaimed]
    left = by_kind([*unclaimed, *(key for model in models for key in (*model.left_out, *model.extra))])
    report = LoadReport(file.source, file.revision, left_out=left)
    if left:
        logger.log(logging.WARNING if UNKNOWN in left else logging.INFO, "%s", report)
    return report
