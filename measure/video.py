"""Films of policies, rendered without a screen."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from measure.memory import stderr_tail
from measure.returns import Act
from trainers.envs.make import make_env
from trainers.envs.seed_envs import Env
from trainers.envs.spec import EnvSpec
from trainers.errors import UserError

BACKENDS = ("egl", "osmesa")
ANIMATION_SECONDS = 4
ANIMATION_FPS = 20
# A backend that fails leaves OpenGL unusable in its process: each is tried in one of its own.
PROBE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import gymnasium
env = gymnasium.make(sys.argv[1], render_mode="rgb_array", **json.loads(sys.argv[2]))
env.reset(seed=0)
assert env.render().max() > 0
"""


def choose_backend(spec: EnvSpec) -> None:
    """Set MUJOCO_GL to what renders here. Raises UserError where nothing does."""
    chosen = os.environ.get("MUJOCO_GL")
    reason = ""
    for backend in (chosen,) if chosen else BACKENDS:
        environment = os.environ | {"MUJOCO_GL": backend}
        command = [sys.executable, "-c", PROBE, spec.env_id, json.dumps(dict(spec.kwargs))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
        reason = stderr_tail(done)
    tried = f"MUJOCO_GL={chosen} cannot" if chosen else "neither EGL nor OSMesa can"
    raise UserError(
        f"no video: {tried} render {spec.env_id} here ({reason}); MuJoCo needs libegl1 and a driver, or libosmesa6"
    )


def record_video(path: Path, spec: EnvSpec, policies: Sequence[Act], seed: int) -> None:
    """Write an mp4 of an episode of every policy from the same start state, side by side in their order."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with ExitStack() as stack:
        worlds = [stack.enter_context(make_env(spec.env_id, spec.kwargs, render_mode="rgb_array")) for _ in policies]
        episodes = [_frames(env, act, seed) for env, act in zip(worlds, policies, strict=True)]
        stack.callback(temporary.unlink, missing_ok=True)
        writer: Any = imageio.get_writer(temporary, fps=worlds[0].metadata["render_fps"], macro_block_size=2)
        stack.enter_context(writer)
        shown: list[NDArray[np.uint8] | None] = [None for _ in episodes]
        for frames in itertools.zip_longest(*episodes):
            # Who has fallen lies still.
            shown = [new if new is not None else old for new, old in zip(frames, shown, strict=True)]
            writer.append_data(np.hstack([picture for picture in shown if picture is not None]))
        writer.close()
        temporary.replace(path)


def animation(spec: EnvSpec, act: Act, seed: int) -> bytes:
    """The first seconds of an episode as a small WebP that goes round, for a page."""
    with make_env(spec.env_id, spec.kwargs, render_mode="rgb_array") as env:
        fps = env.metadata["render_fps"]
        step = max(1, round(fps / ANIMATION_FPS))
        pictures = itertools.islice(_frames(env, act, seed), 0, round(ANIMATION_SECONDS * fps), step)
        small = [_shrunk(picture) for picture in pictures]
    written: Any = iio.imwrite(
        "<bytes>", small, extension=".webp", plugin="pillow", duration=1000 * step / fps, loop=0, quality=60
    )
    return bytes(written)


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A third as wide and as high, each pixel the mean of nine."""
    height, width = (length // 3 for length in picture.shape[:2])
    nine = picture[: 3 * height, : 3 * width].reshape(height, 3, width, 3, 3)
    return np.asarray(nine.mean((1, 3)).round(), np.uint8)


def _follow(env: Env) -> None:
    """Look through the camera that goes along with a MuJoCo robot, if its model has one: else it runs out of sight."""
    robot: Any = env.unwrapped
    if hasattr(robot, "mujoco_renderer"):
        import mujoco

        camera = mujoco.mj_name2id(robot.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera >= 0:
            robot.mujoco_renderer.camera_id = camera


def _frames(env: Env, act: Act, seed: int) -> Iterator[NDArray[np.uint8]]:
    _follow(env)
    obs, _ = env.reset(seed=seed)
    done = False
    while not done:
        picture = env.render()
        assert isinstance(picture, np.ndarray)
        yield picture
        obs, _, terminated, truncated, _ = env.step(act(np.asarray(obs, np.float32)))
        done = terminated or truncated
