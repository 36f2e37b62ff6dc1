"""W&B's environment variables: those that rlc obeys, and those that it cannot."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainers.errors import UserError

if TYPE_CHECKING:
    from rlc.config.settings import WandbSettings

# Older names of modes.
MODES = {"dryrun": "offline", "run": "online"}
# What every run has its own of.
NOT_OBEYED = ("WANDB_NAME", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_RESUME", "WANDB_TAGS")


def variable(name: str, default: str) -> str:
    """`${variable:WANDB_MODE,offline}` in conf/: an environment variable, or a default where it is not set."""
    value = os.environ.get(name) or default
    return MODES.get(value, value) if name == "WANDB_MODE" else value


def check_wandb_variables(settings: "Iterable[WandbSettings]") -> None:
    """Raises UserError for a variable that would have no effect, where anything is told to W&B."""
    for name in NOT_OBEYED:
        if os.environ.get(name) and any(one.mode != "disabled" for one in settings):
            raise UserError(
                f"{name}={os.environ[name]}: has no effect: every run of rlc has its own; unset it (obeyed are "
                "WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR and WANDB_NOTES), or wandb.mode=disabled"
            )
