"""Environments of many seeds in worker processes: the same steps as in one process, on many cores."""

import ctypes
import math
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.envs.seed_envs import EnvFactory, Episode, Step, SyncSeedEnvs
from trainers.envs.spec import EnvSpec
from trainers.tensors import FloatArray, Snapshot

# To wake a process takes longer than an environment's step: for so many seconds who waits asks again and again.
SPIN_SECONDS = 0.002


class SubprocSeedEnvs:
    """SyncSeedEnvs, spread over processes by seeds: `step_async` returns at once, `step_wait` waits for all of them.

    Steps and streams are those of SyncSeedEnvs to the bit. What every step brings lies in shared memory; to send it
    would take longer than to simulate it. `make_env` must be picklable: workers are spawned, because a
    fork of a process that has CUDA or threads is not safe.
    """

    def __init__(self, make_env: EnvFactory, spec: EnvSpec, seeds: Sequence[int], num_envs: int, workers: int) -> None:
        self.spec = spec
        self.seeds = seeds
        self.shape = (len(seeds), num_envs)
        self.obs = np.zeros((*self.shape, spec.obs_dim), np.float32)
        """[S, E, obs_dim], what to act on next."""
        context = multiprocessing.get_context("spawn")
        self._shared = SharedStep(context, self.shape, spec)
        self._step = self._shared.arrays()
        self._parts = [part for part in np.array_split(np.arange(len(seeds)), workers) if len(part)]
        self._pipes: list[SpinningPipe] = []
        self._processes = []
        spins = hasattr(select, "poll") and _usable_cores() > len(self._parts)
        for part in self._parts:
            pipe, worker_pipe = context.Pipe()
            rows = slice(int(part[0]), int(part[-1]) + 1)
            arguments = (worker_pipe, spins, make_env, spec, [seeds[i] for i in part], num_envs, self._shared, rows)
            process = context.Process(target=_worker_main, args=arguments, daemon=True)
            process.start()
            worker_pipe.close()
            self._pipes.append(SpinningPipe(pipe, spins))
            self._processes.append(process)

    def reset(self) -> None:
        """Begin all episodes."""
        for w in range(len(self._pipes)):
            self._send(w, "reset")
        self.obs = np.concatenate(self._answers())

    def step_async(self, actions: FloatArray) -> None:
        """Have every environment take its action of [S, E, act_dim]."""
        self._step.action[:] = actions
        for w in range(len(self._pipes)):
            self._send(w, "step")

    def step_wait(self) -> Step:
        """What came of the actions. Raises what a worker raised, and RuntimeError for one that died."""
        final_obs: dict[tuple[int, int], FloatArray] = {}
        for worker_final_obs, part in zip(self._answers(), self._parts, strict=True):
            for (s, e), obs in worker_final_obs.items():
                final_obs[int(part[s]), e] = obs
        # Copies: the workers write the next step into the same memory.
        self.obs = self._step.next_obs.copy()
        return Step(self.obs, self._step.reward.copy(), self._step.terminated.copy(), final_obs)

    def step(self, actions: FloatArray) -> Step:
        """As SyncSeedEnvs.step."""
        self.step_async(actions)
        return self.step_wait()

    def pop_episodes(self, s: int) -> list[Episode]:
        """Episodes of seed number s that ended since the last call."""
        episodes: list[Episode] = self._call("pop_episodes", s)
        return episodes

    def snapshot(self, i: int) -> Snapshot:
        """As SyncSeedEnvs.snapshot."""
        arrays, metadata = self._call("snapshot", i)
        return Snapshot(_as_tensors(arrays), metadata)

    def restore(self, i: int, snapshot: Snapshot) -> None:
        """As SyncSeedEnvs.restore."""
        self.obs[i] = self._call("restore", i, _as_arrays(snapshot.tensors), snapshot.metadata)

    def close(self) -> None:
        """End the workers and wait for them."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def _send(self, w: int, verb: str, *arguments: Any) -> None:
        try:
            self._pipes[w].send((verb, arguments))
        except ConnectionError:
            raise self._crash_error(w) from None

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
            return self._crash_error(w)

    def _crash_error(self, w: int) -> RuntimeError:
        self._processes[w].join()
        return RuntimeError(f"an environment worker died, exit code {self._processes[w].exitcode}")

    def _call(self, verb: str, i: int, *arguments: Any) -> Any:
        (w,) = (w for w, part in enumerate(self._parts) if i in part)
        self._send(w, verb, i - int(self._parts[w][0]), *arguments)
        answer = self._answer(w)
        if isinstance(answer, Exception):
            raise answer
        return answer


class SpinningPipe:
    """One end of a pipe.

    Args:
        connection: What it stands for.
        spins: Whether there is a core for whoever waits at it.
    """

    def __init__(self, connection: Connection, spins: bool) -> None:
        self.connection = connection
        self.send = connection.send
        self.close = connection.close
        self._poll = select.poll() if spins else None
        if self._poll is not None:
            self._poll.register(connection, select.POLLIN)

    def recv(self) -> Any:
        """The next message. Raises EOFError where the other end hung up."""
        if self._poll is not None:
            deadline = time.perf_counter() + SPIN_SECONDS
            while not self._poll.poll(0) and time.perf_counter() < deadline:
                pass
        return self.connection.recv()


def _usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StepArrays(NamedTuple):
    """Actions and what they led to, [S, E, ...]."""

    action: FloatArray
    next_obs: FloatArray
    reward: FloatArray
    terminated: NDArray[np.bool_]

    def of_seeds(self, seeds: slice) -> "StepArrays":
        """The part of some seeds, in the same memory."""
        return StepArrays(self.action[seeds], self.next_obs[seeds], self.reward[seeds], self.terminated[seeds])


class SharedStep:
    """Memory for StepArrays that a worker process shares."""

    def __init__(self, context: SpawnContext, shape: tuple[int, int], spec: EnvSpec) -> None:
        self.shape = shape
        size = math.prod(shape)
        self._action = context.RawArray(ctypes.c_float, size * spec.act_dim)
        self._next_obs = context.RawArray(ctypes.c_float, size * spec.obs_dim)
        self._reward = context.RawArray(ctypes.c_float, size)
        self._terminated = context.RawArray(ctypes.c_bool, size)

    def arrays(self) -> StepArrays:
        """The memory as arrays."""
        return StepArrays(
            np.frombuffer(memoryview(self._action), np.float32).reshape(*self.shape, -1),
            np.frombuffer(memoryview(self._next_obs), np.float32).reshape(*self.shape, -1),
            np.frombuffer(memoryview(self._reward), np.float32).reshape(self.shape),
            np.frombuffer(memoryview(self._terminated), np.bool_).reshape(self.shape),
        )


def _as_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _as_tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _worker_main(
    connection: Connection,
    spins: bool,
    make_env: EnvFactory,
    spec: EnvSpec,
    seeds: Sequence[int],
    num_envs: int,
    shared: SharedStep,
    rows: slice,
) -> None:
    """A worker: answers what SubprocSeedEnvs asks until that hangs up. Its seeds are some rows of the shared arrays."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the trainer, which hangs up
    pipe = SpinningPipe(connection, spins)
    envs = SyncSeedEnvs(make_env, spec, seeds, num_envs)
    arrays = shared.arrays().of_seeds(rows)

    def reset() -> FloatArray:
        envs.reset()
        return envs.obs

    def step() -> dict[tuple[int, int], FloatArray]:
        # A copy: environments that can be replayed keep their actions.
        result = envs.step(arrays.action.copy())
        arrays.next_obs[:] = result.next_obs
        arrays.reward[:] = result.reward
        arrays.terminated[:] = result.terminated
        return result.final_obs

    def snapshot(i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, metadata = envs.snapshot(i)
        return _as_arrays(tensors), metadata

    def restore(i: int, arrays: dict[str, Any], metadata: dict[str, Any]) -> FloatArray:
        envs.restore(i, Snapshot(_as_tensors(arrays), metadata))
        obs: FloatArray = envs.obs[i]
        return obs

    verbs: dict[str, Callable[..., Any]] = {
        "reset": reset,
        "step": step,
        "pop_episodes": envs.pop_episodes,
        "snapshot": snapshot,
        "restore": restore,
    }
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
