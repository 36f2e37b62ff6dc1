"""What the paper measured: whole episodes with the simulator inside, and the memory of the whole process."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Python with gymnasium and ONNX Runtime at its default options, as the published scripts ran; no warm-up.
PROBE = """
import json, sys, time, warnings
import gymnasium, numpy, onnxruntime, psutil
warnings.simplefilter("ignore")
path, env_id, episodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
env, process = gymnasium.make(env_id), psutil.Process()
seconds, steps, rss = [], [], []
for episode in range(episodes):
    began = time.perf_counter()
    obs, _ = env.reset(seed=episode)
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


def paper_episodes(model: Path, env_id: str, episodes: int) -> PaperEpisodes:
    """Play episodes in a fresh process. Raises RuntimeError where it fails."""
    command = [sys.executable, "-c", PROBE, str(model), env_id, str(episodes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{env_id} cannot be played in a process of its own: {done.stderr.splitlines()[-1]}")
    # MuJoCo and gymnasium may print lines of their own before.
    found = json.loads(done.stdout.splitlines()[-1])
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return PaperEpisodes(means["seconds"], means["steps"], means["rss"])
