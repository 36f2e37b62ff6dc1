"""Check the artifact of a run and copy it: python -m rlc.export run=outputs/.../seed0 to=<folder>"""

import shutil
from pathlib import Path

from rlc.cli import only, run_command
from rlc.runs.find import open_artifact
from trainers.errors import UserError


def export(arguments: list[str]) -> None:
    """Without `to` the artifact is only checked. Raises ArtifactError where it is damaged."""
    values = only(arguments, ("run", "to"), required=("run",))
    folder, contract, _ = open_artifact(Path(values["run"]))
    description = f"{contract['algorithm']} for {contract['environment']['id']}, {contract['compression']['method']}"
    if "to" in values:
        target = Path(values["to"])
        if target.exists():
            raise UserError(f"to={target}: exists already")
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            shutil.copytree(folder, temporary)
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"to={target}: cannot be written: {error.strerror}") from error
        print(f"{target}: {description}")
    else:
        print(f"{folder}: {description}: whole, and gives its golden actions")


if __name__ == "__main__":
    run_command(export)
