"""Observation statistics of a policy: vecnormalize.pkl of Stable-Baselines3, or an .npz."""

import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compression.imports.inert import read_inert
from compression.imports.layers import Request
from compression.imports.records import InertError, Record, array_of, describe
from trainers.errors import UserError
from trainers.policy import Clamp, Standardize

NAMES = ("mean", "var", "epsilon", "clip_obs")
ALLOWED = f"vecnormalize.pkl of Stable-Baselines3, or an .npz with {', '.join(NAMES)}"
LARGEST = 2**26


class Numbers(NamedTuple):
    """Mean and variance [obs_dim], what is added to the variance, and the limit of what is normalised."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    epsilon: float
    limit: float


def read_statistics(request: Request) -> list[nn.Module]:
    """The stages that `statistics` names; none for "none" and where nothing is said. Raises UserError in one line."""
    if request.statistics in (None, "none"):
        return []
    assert request.statistics is not None
    path = Path(request.statistics).expanduser()
    try:
        if path.stat().st_size > LARGEST:
            raise InertError(f"it has more than {LARGEST} bytes")
        numbers = _npz(path) if zipfile.is_zipfile(path) else _pickled(path.read_bytes())
    except (OSError, KeyError, ValueError, TypeError, OverflowError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, KeyError):
            reason = f"it has no {error.args[0]}"
        raise UserError(f"statistics={path}: cannot be read: {reason}; allowed: {ALLOWED}, none") from error
    return [] if numbers is None else _stages(request, path, numbers)


def beside(request: Request) -> Path | None:
    """The statistics that Stable-Baselines3 or rl-zoo3 wrote beside a model, if there are any."""
    path = request.path
    name = re.sub(r"_(\d+)_steps$", r"_vecnormalize_\1_steps", path.stem)
    places = [path.parent, path.parent / request.spec.env_id, path.parent / path.stem]
    candidates = [path.with_name(f"{name}.pkl")] if name != path.stem else []
    for place in places:
        candidates += [place / "vecnormalize.pkl", place / "vec_normalize.pkl"]
    candidates += sorted(path.parent.glob("*vec*normalize*.pkl"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _npz(path: Path) -> Numbers:
    with np.load(path, allow_pickle=False) as file:
        return _numbers(*(file[name] for name in NAMES))


def _pickled(content: bytes) -> Numbers | None:
    """The numbers of a pickled VecNormalize; None where it leaves observations raw."""
    record = read_inert(content)
    name = describe(record)
    if not isinstance(record, Record) or not re.fullmatch(r"stable_baselines3\..*\.VecNormalize", name):
        raise InertError(f"it holds {name}")
    if not bool(array_of(record.attribute("norm_obs"))):
        return None
    statistics = record.attribute("obs_rms")
    if isinstance(statistics, dict):
        raise InertError(f"it has statistics of the parts {', '.join(map(str, statistics))} of a dictionary")
    if not isinstance(statistics, Record):
        raise InertError(f"its obs_rms is {describe(statistics)}")
    values = [statistics.attribute("mean"), statistics.attribute("var")]
    values += [record.attribute("epsilon"), record.attribute("clip_obs")]
    return _numbers(*(array_of(value) for value in values))


def _numbers(mean: NDArray[Any], var: NDArray[Any], epsilon: NDArray[Any], limit: NDArray[Any]) -> Numbers:
    """Raises ValueError or TypeError for what is no number."""
    return Numbers(
        np.asarray(mean, np.float64).ravel(), np.asarray(var, np.float64).ravel(), float(epsilon), float(limit)
    )


def _stages(request: Request, path: Path, numbers: Numbers) -> list[nn.Module]:
    spec = request.spec
    mean, var, epsilon, limit = numbers
    if mean.size != spec.obs_dim or var.size != spec.obs_dim:
        raise UserError(
            f"statistics={path}: has {mean.size} means and {var.size} variances, but {spec.env_id} has "
            f"{spec.obs_dim} observations; allowed: the statistics of the same training"
        )
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var + epsilon > 0).all() and limit > 0):
        raise UserError(
            f"statistics={path}: has means, variances or limits that are no usable numbers; allowed: finite means, "
            "variances of 0 or more, clip_obs above 0"
        )
    deviation = torch.from_numpy(np.sqrt(var + epsilon))
    clip = torch.tensor(limit, dtype=torch.float32)
    return [Standardize(torch.from_numpy(mean), deviation), Clamp(-clip, clip)]
