"""W&B views of a study, made of what its runs log."""

from typing import TYPE_CHECKING, Any

from rlc.pipeline.tracking import ALL_ENVIRONMENTS, BYTES, MICROSECONDS, MICROSECONDS_C, RETURN_KEPT, SIZE_RATIO
from rlc.runs.stored import EVALUATION

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

# Columns of the table of policies, beside the name.
COLUMNS = ("return_mean", "fp32_return_mean", RETURN_KEPT, BYTES, SIZE_RATIO, MICROSECONDS, MICROSECONDS_C)
# The table of rlc.report that is shown too.
REPORT_TABLE = "costs"


def view(study: str, environment: str, entity: str, project: str) -> "Workspace":
    """The view of one environment of a study; nothing is sent before it is saved."""
    from wandb_workspaces.reports.v2 import interface as panels
    from wandb_workspaces.workspaces import Config, RunsetSettings, Section, Workspace

    def against(key: str, title: str) -> Any:
        kept = panels.SummaryMetric(RETURN_KEPT)
        return panels.ScatterPlot(title=title, x=panels.SummaryMetric(key), y=kept, log_x=True)

    def curves(title: str, by: str) -> Any:
        return panels.LinePlot(
            title=title,
            x="global_step",
            y=[EVALUATION],
            groupby=panels.Config(by),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )

    learning = [
        curves("Return of evaluations: mean over seeds, with its standard error", "policy"),
        curves("The same, by algorithm", "algorithm"),
    ]
    kept = [against(BYTES, "Return kept against bytes"), against(MICROSECONDS, "Return kept against microseconds")]
    table = panels.WeavePanelSummaryTable(table_name=REPORT_TABLE)
    return Workspace(
        entity=entity,
        project=project,
        name=f"{study}: {environment}",
        sections=[
            Section(name="Learning curves", panels=learning, is_open=True),
            Section(name="Return kept against cost", panels=kept, is_open=True),
            Section(name="Policies (of rlc.report)", panels=[table], is_open=True),
        ],
        runset_settings=RunsetSettings(
            filters=f"Config('study') = '{study}' and Config('environment') in ['{environment}', '{ALL_ENVIRONMENTS}']",
            groupby=[Config("policy")],
            pinned_columns=[f"summary:{name}" for name in COLUMNS],
        ),
    )
