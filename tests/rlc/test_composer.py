"""Configurations that are put together are those that Hydra composes."""

import pytest

from rlc.config.compose import compose_settings, unresolved_config
from rlc.config.composer import Composer

# Of one kind, so that later ones are put together from parts of the first and of their own.
CHOICES = (
    "+algo=sac +compress=prune_l1 env=halfcheetah",
    "+algo=ppo +compress=prune_ptsq env=hopper",
    "+algo=ddpg +compress=qat env=humanoid_standup",
)
CHANGES = (
    "",
    "compress.reduce_range=false",
    "env.version=v5",
    "env.id=Walker2d-v5 total_steps=4_000_000",
    "study=x-${total_steps} algo.gamma=0.9",
    "compress.reduce_range=${overwrite} algo.hidden=[32,32]",
    "env.kwargs.reset_noise_scale=0.01",
    "wandb={mode:disabled,project:x,entity:null}",
)


@pytest.mark.parametrize("preset", ["", "+experiment=published"])
def test_what_is_put_together_is_what_hydra_composes(preset: str) -> None:
    composer = Composer()
    for choices in CHOICES:
        lines = tuple(f"{choices} {preset}".split())
        assert composer.config(lines) == unresolved_config(lines)
        for changes in CHANGES if choices == CHOICES[1] else CHANGES[:1]:
            lines = tuple(f"{choices} {changes} {preset}".replace("env.kwargs", "++env.kwargs").split())
            assert composer.settings(lines) == compose_settings(lines)


def test_nested_keys_of_a_method_change_a_copy() -> None:
    composer = Composer()
    line = ("+algo=sac", "+compress=prune_l2", "env=ant")
    changed = composer.settings((*line, "compress.distill.lr=0.5"))
    assert changed["compress"]["distill"]["lr"] == 0.5
    assert composer.settings(line) == compose_settings(line)
