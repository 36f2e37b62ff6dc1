"""Names of environments: a task has one, however it is written."""

import functools
import importlib
import re

from trainers.errors import UserError


@functools.cache
def builtin_ids() -> frozenset[str]:
    """What Gymnasium itself registers."""
    import gymnasium as gym  # takes half a second, which --help has not

    return frozenset(name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("gymnasium."))


def canonical_id(env_id: str) -> str:
    """The id with its version, and with its module only where that is needed to make it.

    `HalfCheetah` is the newest version of it, `gymnasium.envs.mujoco:HalfCheetah-v4` is `HalfCheetah-v4`. A name that
    nobody registers stays as it is. Imports the module that the id names; raises UserError where that fails.
    """
    import gymnasium as gym  # as above

    builtin = builtin_ids()  # before any module of a user is imported
    module, _, name = env_id.rpartition(":")
    if ":" in env_id:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # whatever somebody's module raises
            raise UserError(
                f"env.id={env_id}: the module {module!r} cannot be imported ({type(error).__name__}: {error}); "
                "allowed: <module>:<id> with a module that is installed or lies in the working directory"
            ) from error
    if name not in gym.registry:
        versions = [re.fullmatch(rf"{re.escape(name)}-v(\d+)", known) for known in gym.registry]
        name = max((found for found in versions if found), key=lambda found: int(found[1]), default=[name])[0]
    return name if name in builtin or not module else f"{module}:{name}"


def task_name(env_id: str) -> str:
    """The name in an id without module and version, such as HalfCheetah."""
    return re.sub(r"-v\d+$", "", env_id.rpartition(":")[2])


def takes_wide_seeds(env_id: str) -> bool:
    """Whether `reset` takes seeds of more than 32 bits: Gymnasium's own environments all draw from `np_random`."""
    return env_id in builtin_ids()
