"""What Hydra answers itself: --help, --cfg and their like."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from rlc.config.compose import CONF  # also registers the resolvers that conf/ uses

ANSWERED = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info")


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _answer(config: DictConfig) -> None:
    """Never called: Hydra answers and ends."""


def answer(arguments: Sequence[str]) -> None:
    """Let Hydra answer a command line that asks it something."""
    sys.argv[1:] = [a for a in arguments if a not in ("-m", "--multirun")]
    _answer()
