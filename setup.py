"""The one part of a build that pyproject.toml cannot say: a wheel has conf/ inside rlc/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies conf/ to rlc/conf, where rlc.datafiles looks first; an editable install reads the checkout's."""

    def run(self) -> None:
        """Build the packages, then add conf/."""
        super().run()
        if not self.editable_mode:
            built = Path(self.build_lib, "rlc", "conf")
            shutil.rmtree(built, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "conf", built)


setup(cmdclass={"build_py": BuildWithConf})
