"""The algorithms by the names that conf/algo/ gives them."""

from trainers.actor_critic import ActorCritic
from trainers.ddpg import DDPG
from trainers.ppo import PPO
from trainers.sac import SAC
from trainers.td3 import TD3
from trainers.trpo import TRPO

AGENTS: dict[str, type[ActorCritic]] = {
    "trpo": TRPO,
    "ppo": PPO,
    "ddpg": DDPG,
    "td3": TD3,
    "sac": SAC,
}
