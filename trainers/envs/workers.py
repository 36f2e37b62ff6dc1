"""Environments of many seeds in worker processes: the same steps as in one process, on many cores."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from trainers.envs.seed_envs import EnvFactory, Episode, Step, SyncSeedEnvs
from trainers.envs.spec import EnvSpec
from trainers.tensors import FloatArray, Snapshot


class SubprocSeedEnvs:
    """SeedEnvs, spread over processes by seeds. `step_async` returns at once, `step_wait` waits for all of them.

    Steps and streams are those of SeedEnvs to the bit. `make_env` must be picklable: workers are spawned, because a
    fork of a process that has CUDA or threads is not safe.
    """

    def __init__(self, make_env: EnvFactory, spec: EnvSpec, seeds: Sequence[int], num_envs: int, workers: int) -> None:
        self.spec = spec
        self.seeds = seeds
        self.shape = (len(seeds), num_envs)
        self.obs = np.zeros((*self.shape, spec.obs_dim), np.float32)
        """[S, E, obs_dim], what to act on next."""
        self._parts = [part for part in np.array_split(np.arange(len(seeds)), workers) if len(part)]
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for part in self._parts:
            mine, theirs = context.Pipe()
            given = (theirs, make_env, spec, [seeds[i] for i in part], num_envs)
            process = context.Process(target=serve, args=given, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def reset(self) -> None:
        """Begin all episodes."""
        for w in range(len(self._pipes)):
            self._send(w, "reset")
        self.obs = np.concatenate(self._answers())

    def step_async(self, actions: FloatArray) -> None:
        """Have every environment take its action of [S, E, act_dim]."""
        for w, part in enumerate(self._parts):
            self._send(w, "step", actions[part])

    def step_wait(self) -> Step:
        """What came of the actions. Raises what a worker raised, and RuntimeError for one that died."""
        steps: list[Step] = self._answers()
        final_obs: dict[tuple[int, int], FloatArray] = {}
        for step, part in zip(steps, self._parts, strict=True):
            for (s, e), obs in step.final_obs.items():
                final_obs[int(part[s]), e] = obs
        self.obs = np.concatenate([step.next_obs for step in steps])
        return Step(
            self.obs,
            np.concatenate([step.reward for step in steps]),
            np.concatenate([step.terminated for step in steps]),
            final_obs,
        )

    def step(self, actions: FloatArray) -> Step:
        self.step_async(actions)
        return self.step_wait()

    def pop_episodes(self, s: int) -> list[Episode]:
        """Episodes of seed number s that ended since the last call."""
        episodes: list[Episode] = self._ask("pop_finished", s)
        return episodes

    def snapshot(self, i: int) -> Snapshot:
        """As SeedEnvs.snapshot."""
        arrays, plain = self._ask("snapshot", i)
        return Snapshot({name: torch.from_numpy(array) for name, array in arrays.items()}, plain)

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """As SeedEnvs.restore."""
        arrays = {name: tensor.numpy() for name, tensor in snapshot.tensors.items()}
        self.obs[i] = self._ask("restore", i, arrays, snapshot.plain)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def _send(self, w: int, verb: str, *arguments: Any) -> None:
        try:
            self._pipes[w].send((verb, arguments))
        except ConnectionError:
            raise self._death(w) from None

    def _answers(self) -> list[Any]:
        # All are read before the first error is raised, or the next answers would be those of this call.
        answers = [self._answer(w) for w in range(len(self._pipes))]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _answer(self, w: int) -> Any:
        try:
            return self._pipes[w].recv()
        except (EOFError, ConnectionError):
            return self._death(w)

    def _death(self, w: int) -> RuntimeError:
        self._processes[w].join()
        return RuntimeError(f"an environment worker died, exit code {self._processes[w].exitcode}")

    def _ask(self, verb: str, i: int, *arguments: Any) -> Any:
        (w,) = (w for w, part in enumerate(self._parts) if i in part)
        self._send(w, verb, i - int(self._parts[w][0]), *arguments)
        answer = self._answer(w)
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(pipe: Connection, make_env: EnvFactory, spec: EnvSpec, seeds: Sequence[int], num_envs: int) -> None:
    """A worker: answer what WorkerEnvs asks until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the trainer, which hangs up
    envs = SyncSeedEnvs(make_env, spec, seeds, num_envs)

    def reset() -> FloatArray:
        envs.reset()
        return envs.obs

    def snapshot(i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, plain = envs.snapshot(i)
        return {name: tensor.numpy() for name, tensor in tensors.items()}, plain

    def restore(i: int, arrays: dict[str, Any], plain: dict[str, Any]) -> FloatArray:
        envs.restore(i, Snapshot({name: torch.from_numpy(array) for name, array in arrays.items()}, plain))
        obs: FloatArray = envs.obs[i]
        return obs

    verbs: dict[str, Callable[..., Any]] = {"reset": reset, "step": envs.step, "pop_finished": envs.pop_episodes}
    verbs |= {"snapshot": snapshot, "restore": restore}
    while True:
        try:
            verb, arguments = pipe.recv()
        except EOFError:
            return envs.close()
        try:
            answer: Any = verbs[verb](*arguments)
        except Exception as error:  # raised again where it was asked for
            answer = error
        pipe.send(answer)
