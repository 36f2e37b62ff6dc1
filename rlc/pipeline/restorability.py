"""Whether checkpoints of a training are worth writing."""

from rlc.messages import warn
from trainers.envs.make import env_factory
from trainers.envs.names import takes_wide_seeds
from trainers.envs.seed_envs import SyncSeedEnvs, repeats_itself
from trainers.envs.spec import EnvSpec
from trainers.envs.workers import SubprocSeedEnvs


class Restorability:
    """Whether the environments of a training repeat themselves, seen when the first checkpoint is due."""

    def __init__(self, spec: EnvSpec, envs: SyncSeedEnvs | SubprocSeedEnvs) -> None:
        self.spec = spec
        self.envs = envs
        self._known: bool | None = True if takes_wide_seeds(spec.env_id) else None

    def __call__(self) -> bool:
        """The first time it plays an environment again, and says where that ends otherwise."""
        if self._known is None:
            self._known = repeats_itself(env_factory(self.spec), self.spec, self.envs.snapshot(0))
            if not self._known:
                warn(f"{self.spec.env_id} does not repeat itself: no checkpoints; a run that is stopped begins anew")
        return self._known
