"""Copies configs/ into the built package, as depthlab/configs. Everything else is declared in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


class BuildWithConfigs(build_py):
    """The standard build step, plus the configuration files.

    A clone and an editable install read the folder at the top level instead.
    """

    def run(self) -> None:
        """Build the package, then add the folder."""
        super().run()
        if self.editable_mode:
            return
        for source in CONFIGS.rglob("*.yaml"):
            target = Path(self.build_lib, "depthlab", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def get_source_files(self) -> list[str]:
        """What a source distribution holds: the configuration files too."""
        return [*super().get_source_files(), *map(str, CONFIGS.rglob("*.yaml"))]


setup(cmdclass={"build_py": BuildWithConfigs})
