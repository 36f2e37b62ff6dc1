"""What the paper measured: whole episodes with the simulator inside, and the memory of the whole process."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from measure.memory import stderr_tail
from trainers.envs.spec import EnvSpec

# Python with gymnasium and ONNX Runtime at its default options, on all cores, as the published scripts ran: no
# warm-up, one seed for all episodes.
PROBE = """
import json, os, sys, time, warnings
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
import gymnasium, numpy, onnxruntime, psutil
warnings.simplefilter("ignore")
path, env_id, episodes, kwargs = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[5])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
env, process = gymnasium.make(env_id, **kwargs), psutil.Process()
if sys.argv[4] == "normalize":
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.wrappers.ClipAction(env))
    env = gymnasium.wrappers.TransformObservation(env, lambda obs: obs.clip(-10, 10), env.observation_space)
env.reset(seed=102)
seconds, steps, rss = [], [], []
for episode in range(episodes):
    began = time.perf_counter()
    obs, _ = env.reset()
    done, count = False, 0
    while not done:
        action = session.run(None, {"observation": numpy.asarray(obs, "float32").reshape(1, -1)})[0][0]
        obs, _, terminated, truncated, _ = env.step(action.reshape(env.action_space.shape))
        done, count = terminated or truncated, count + 1
    seconds.append(time.perf_counter() - began)
    steps.append(count)
    rss.append(process.memory_info().rss)
print(json.dumps({"seconds": seconds, "steps": steps, "rss": rss}))
"""


@dataclass(frozen=True)
class PaperEpisodes:
    """Means over episodes."""

    episode_s: float
    """Wall time from before the reset to after the last step: simulator, conversions and policy together."""
    episode_steps: float
    process_rss_bytes: float
    """Resident size of interpreter, libraries, simulator and policy."""


def paper_episodes(model: Path, spec: EnvSpec, episodes: int, normalize: bool) -> PaperEpisodes:
    """Play episodes in a fresh process, `normalize` behind fresh observation statistics.

    Raises RuntimeError where it fails.
    """
    way = "normalize" if normalize else "plain"
    told = [str(model), spec.env_id, str(episodes), way, json.dumps(dict(spec.kwargs))]
    command = [sys.executable, "-c", PROBE, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{spec.env_id} cannot be played in a process of its own: {stderr_tail(done)}")
    # MuJoCo and gymnasium may print lines of their own before.
    found = json.loads(done.stdout.splitlines()[-1])
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return PaperEpisodes(means["seconds"], means["steps"], means["rss"])
