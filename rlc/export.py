"""Check the artifact of a run and copy it: python -m rlc.export run=outputs/.../seed0 to=<folder>"""

import shutil

from compression.artifact import check_artifact
from rlc.cli import given_path, only, run_command
from rlc.runs.find import artifact_of
from trainers.errors import UserError


def export(arguments: list[str]) -> None:
    """Without `to` the artifact is only checked. Raises ArtifactError where it is damaged."""
    values = only(arguments, ("run", "to"), required=("run",))
    folder = artifact_of(given_path(values["run"]))
    contract = check_artifact(folder)
    kept = f"{contract['algorithm']} for {contract['environment']['id']}, {contract['compression']['method']}"
    if "to" in values:
        target = given_path(values["to"])
        if target.exists():
            raise UserError(f"to={target}: exists already")
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            shutil.copytree(folder, temporary)
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"to={target}: cannot be written: {error.strerror}") from error
        print(f"{target}: {kept}")
    else:
        print(f"{folder}: {kept}: whole, and gives its golden actions")


if __name__ == "__main__":
    run_command(export)
