"""Views of a study in W&B, by one command: python -m rlc.dashboard study=default

Needs the extra `dashboard` and a login. The runs themselves are uploaded by wandb.mode=online or `wandb sync`.
"""

import importlib.util

from rlc.cli import configured, positional, run_command
from rlc.config.commands import parse_dashboard
from rlc.datafiles import CONF
from rlc.reporting.dashboard import view
from rlc.runs.files import OUTPUTS
from rlc.runs.find import list_runs
from trainers.errors import UserError, one_line

LOG_IN = "log in with `wandb login`, or set WANDB_API_KEY"


def dashboard(arguments: list[str]) -> None:
    """Make a view for each environment of a study. Raises UserError where W&B does not let us."""
    settings = parse_dashboard(configured(positional(arguments, "study"), CONF / "dashboard.yaml"))
    environments = sorted({run.settings.env.id for run in list_runs(settings.study)})
    if not environments:
        raise UserError(f"study={settings.study}: there is no run in {OUTPUTS / settings.study}")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("wandb-workspaces: not installed; pip install --editable '.[dashboard]'")
    entity = _entity(settings.wandb.entity)
    for environment in environments:
        made = view(settings.study, environment, entity, settings.wandb.project)
        try:
            made.save()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise UserError(
                f"wandb.project={entity}/{settings.wandb.project}: W&B refused the view of {environment}: "
                f"{one_line(str(error))}"
            ) from error
        print(f"{environment}: {made.url}")


def _entity(given: str | None) -> str:
    """The entity that views belong to. Raises UserError where nobody is logged in, or W&B cannot be reached."""
    import wandb

    try:
        api = wandb.Api()
        entity = given or api.default_entity
    except wandb.errors.UsageError as error:
        raise UserError(f"W&B: nobody is logged in on this machine; {LOG_IN}") from error
    except Exception as error:
        raise UserError(
            f"W&B: cannot be reached: {type(error).__name__}; try again where there is a network"
        ) from error
    if not entity:
        raise UserError("wandb.entity: W&B names no default for you; add wandb.entity=<name>")
    return str(entity)


if __name__ == "__main__":
    run_command(dashboard)
