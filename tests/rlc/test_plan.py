"""The command line: what is composed, in which order, and one line for whatever cannot run."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from omegaconf import OmegaConf

from rlc.config.compress import FP32Settings, PruneSettings
from rlc.config.job import Job
from rlc.config.plan import make_plan
from rlc.datafiles import CONF
from rlc.grid.estimate import estimate
from rlc.pipeline.check import check_runs
from rlc.reporting.published import RATIOS
from rlc.reporting.study import ALGORITHMS
from rlc.runs.identity import label, training_identity
from rlc.runs.run import Run
from trainers.errors import UserError
from trainers.ppo import PPOSettings
from trainers.settings import OffPolicySettings

ERRORS = {
    "": "algo: none given; add +algo=<name> with one of: ddpg, ppo, sac, td3, trpo",
    "+algo=sca": "algo=sca: unknown; did you mean sac?; allowed: ddpg, ppo, sac, td3, trpo",
    "+algo=sac env=foo": "env=foo: unknown; allowed: ant, halfcheetah, hopper, humanoid, humanoid_standup",
    "+algo=sac +compress=int4": "compress=int4: unknown; allowed: fp32, prune_l1, prune_l2, ",
    "+experiment=quik": "experiment=quik: unknown; allowed: figures, paper, published, quickstart, table1, table2",
    "algo=sac": "algo=sac: write +algo=sac",
    "+algo=sac +env=hopper": "+env=hopper: write env=hopper",
    "+algo=sac algo.alpa=1": "algo.alpa=1: no such key for +algo=sac; did you mean alpha?; allowed: ... gamma, ",
    "+algo=sac total_step=5": "total_step=5: no such key; did you mean total_steps?; allowed: algo, compress",
    "+algo=sac ++foo=3": "no such key",
    "+algo=sac +compress=qat compress.calibration_steps=5": "no such key ... ; allowed: method, reduce_range",
    "+algo=sac +compress=qat compress.weight_bits=5": "compress.weight_bits=5: must be 8, 6, 4, 3 or 2",
    "+algo=sac +compress=prune_l2 compress.weight_bits=4": "compress.weight_bits=4: allowed with prune_l2: 8",
    "+algo=sac +compress=prune_ptdq compress.input_bits=4": "compress.input_bits=4: allowed with prune_ptdq: 8",
    "+algo=sac +compress=prune_l1 compress.ratio=0": "compress.ratio=0: nothing would be pruned; allowed with prune_l1",
    "+algo=sac +compress=qat compress.weight_bits=4 protocol=paper": "protocol=paper has its own; leave it out",
    "+algo=sac +compress=qat compress.reduce_range=maybe": "compress.reduce_range=maybe: must be a valid boolean",
    "+algo=sac total_steps=abc": "total_steps=abc: must be a valid integer",
    "+algo=sac total_steps=-5": "total_steps=-5: must be greater than or equal to 1",
    "+algo=sac total_steps=2.5": "total_steps=2.5: must be a valid integer",
    "+algo=sac algo.gamma=2": "algo.gamma=2: must be less than or equal to 1",
    "+algo=sac algo.actor_lr=nan": "algo.actor_lr=nan: must be",
    "+algo=sac algo.alpha=foo": "algo.alpha=foo: must be a valid number or must be 'auto'",
    "+algo=sac algo.hidden=256": "algo.hidden=256: must be a valid list",
    "+algo=sac algo.hidden=[]": "algo.hidden=[]: must have at least 1 item",
    "+algo=sac algo.actor_hidden=16": "algo.actor_hidden=16: must be a valid list",
    "+algo=ppo algo.actor_hidden=[]": "algo.actor_hidden=[]: must have at least 1 item",
    "+algo=td3 algo.actor_hidden=[16,0]": "algo.actor_hidden=[16, 0]: must be greater than or equal to 1",
    "+algo=ddpg algo.actor_hidden=[16.5]": "algo.actor_hidden=[16.5]: must be a valid integer",
    "+algo=sac overwrite=maybe": "overwrite=maybe: must be a valid boolean",
    "+algo=sac wandb.mode=on": "wandb.mode=on: must be 'offline', 'online' or 'disabled'",
    "+algo=sac study=../x": "study=../x: must match",
    "+algo=sac seed=[]": "seed=[]: must have at least 1 item",
    "+algo=sac seed=[1,1]": "seed=[1, 1]: a seed stands in the list twice",
    "+algo=sac seed=1,1 -m": "seed=1: asked for twice",
    "+algo=sac seed=[0,1],[1,2] -m": "seed=1: asked for twice",
    "+algo=sac seed=-1": "seed=-1: must be greater than or equal to 0",
    "+algo=sac seed=x": "seed=x: must be a valid integer",
    "+algo=sac seed=0,1": "seed=0,1: several values make several jobs: add -m",
    "+algo=sac precision=fp16": "precision=fp16: must be 'fp32' or 'bf16'",
    "+algo=trpo precision=bf16": "precision=bf16: allowed with trpo: fp32",
    "+algo=ppo overlap=true": "overlap=true: ppo learns from whole rollouts",
    "+algo=sac compile=true device=cuda": "compile=true: it is for device=cpu, not cuda",
    "+algo=sac eval.along=3": "eval.along=3: no such key for +algo=sac; did you mean evaluations?",
    "+algo=sac compile=maybe": "compile=maybe: must be a valid boolean or must be 'auto'",
    "+algo=sac env_workers=-1": "env_workers=-1: must be greater than or equal to 0",
    "+algo=sac device=gpu": "device=gpu: must be cpu, cuda or cuda:<number>",
    "+algo=sac device=cuda:99": "device=cuda:99: this machine has",
    "+algo=sac +algo=sac": "algo is given 2 times",
    "+algo=sac +algo=sac -m": "algo is given 2 times",
    "+algo=ppo algo.learning_starts=10": "algo.learning_starts=10: no such key for +algo=ppo",
    "+algo=ppo algo.lr_decay_steps=999_999": "algo.lr_decay_steps=999999: with total_steps=1000000 the learning rate "
    "would be 0 before the end; allowed: 1000000 or more, null",
    "+algo=ppo +compress=prune_l2 compress.finetune=rl compress.rl_steps=3e6 algo.lr_decay_steps=2e6": "with "
    "compress.rl_steps=3000000 the learning rate would be 0",
    "+algo=trpo algo.line_search_decay=1": "algo.line_search_decay=1: must be less than 1",
    "+algo=td3 algo.exploration_noise=-1": "algo.exploration_noise=-1: must be greater than or equal to 0",
    "+algo=sac +compress=prune_l1 compress.ratio=1": "compress.ratio=1: must be less than 1",
    "+algo=sac +compress=prune_l1 compress.norm=3": "compress.norm=3: must be 1 or 2",
    "+algo=sac +compress=prune_qat compress.finetune=none": "compress.finetune=none: prune_qat trains",
    "+algo=sac +compress=ptsq compress.calibration=max": "must be 'minmax', 'entropy' or 'percentile'",
    "+algo=sac checkpoint_every=0": "checkpoint_every=0: must be greater than or equal to 1",
    "+algo=sac total_steps=100": "total_steps=100: must be larger than algo.learning_starts=10000",
    "+algo=sac total_steps=10000": "total_steps=10000: must be larger than algo.learning_starts=10000",
    "+algo=sac algo.num_envs=3": "total_steps=1000000: sac takes it in steps of algo.num_envs=3 "
    "environments; allowed next to it: 999999 or 1000002",
    "+algo=td3 algo.num_envs=2 algo.buffer_size=100_001": "algo.buffer_size=100001: td3 takes it in steps of ",
    "+algo=sac env.id=Foo-v3": "env.id=Foo-v3: cannot be made: NameNotFound: Environment `Foo` doesn't exist",
    "+algo=sac env.version=v9": "env.id=HalfCheetah-v9: cannot be made",
    "+algo=sac env.id=CartPole-v1": "env.id=CartPole-v1: observations and actions must be Box spaces",
    "+algo=sac --frob": "--frob: unknown option",
    "-sc install=bash": "-sc: Hydra completes words of `python <file>`, not of `python -m`; see --help",
    "+algo=sac foo": "Error parsing override 'foo'",
    "+algo=sac +hydrafoo=3": "+hydrafoo=3: no such key",
    "+algo=sac seed=range(0,0) -m": "one of the sweeps is empty",
    "+algo=sac hydra.run.dir=there": "hydra.run.dir=there: has no effect here: ... choose study=<name>",
    "+algo=sac hydra.sweep.dir=there -m": "hydra.sweep.dir=there: has no effect here",
    "+algo=sac hydra/launcher=basic": "hydra/launcher=basic: has no effect on one job ... add -m",
    "+algo=sac hydra.mode=RUN -m": "hydra.mode=RUN: -m says otherwise",
    "+algo=sac env.id=Hopper-v4 env.version=v5": "env.version=v5: env.id=Hopper-v4 says it already; leave one out",
    "+algo=sac env.kwargs.foo=1": 'env.kwargs={"foo": 1}: cannot be made: ... allowed: ... ctrl_cost_weight',
    "+algo=sac env.kwargs.render_mode=human": "env.kwargs.render_mode=human: chosen by rlc; leave it out",
    "+algo=sac env.id=nowhere:Hopper-v4": "the module 'nowhere' cannot be imported",
    "+algo=sac study=${x}": "study=${x}: Interpolation key 'x' not found",
    "+algo=sac hydra.job.chdir=true -m": "hydra.job.chdir=true: ",
    "+algo=sac device=cuda:1000": "device=cuda:1000: must be cpu, cuda or cuda:<number>",
    "+algo=sac threads=100000": "threads=100000: must be less than or equal to 1024",
    "+algo=sac study=" + 101 * "x": "must have at most 100 characters",
    "+algo=sac env.id=NoLimit-v0": "env.id=NoLimit-v0: has no time limit; register it with max_episode_steps",
    "+algo=sac env.id=Broken-v0": "env.id=Broken-v0: cannot be made: RuntimeError: no such robot",
}


def broken_environment(**_: Any) -> gym.Env[Any, Any]:
    raise RuntimeError("no such\nrobot")


gym.register("NoLimit-v0", entry_point="tests.trainers.test_replay:Count")
gym.register("Broken-v0", entry_point=broken_environment)


@pytest.mark.parametrize("arguments", ERRORS)
def test_bad_input_gives_one_clear_line(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        check_runs(make_plan(arguments.split()).jobs)
    message = str(caught.value)
    assert all(part in message for part in ERRORS[arguments].split(" ... ")), message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def planned(arguments: str) -> list[tuple[str, str, list[int]]]:
    jobs = make_plan(arguments.split()).jobs
    return [(job.settings.env.id, label(job), job.settings.seed) for job in jobs]


def test_a_plain_run_is_fp32_on_the_default_environment() -> None:
    assert planned("+algo=sac") == [("HalfCheetah-v4", "fp32", [0])]
    assert planned("+algo=sac +compress=fp32 seed=3") == [("HalfCheetah-v4", "fp32", [3])]
    assert planned("+algo='sac' +compress='qat'") == [("HalfCheetah-v4", "qat", [0])]


def test_a_bare_multirun_is_the_grid_of_the_paper() -> None:
    jobs = planned("+algo=sac +compress=qat -m")
    assert len(jobs) == 50
    environments = {env_id for env_id, _, _ in jobs}
    assert environments == {f"{n}-v4" for n in ("HalfCheetah", "HumanoidStandup", "Ant", "Humanoid", "Hopper")}
    assert {tuple(seeds) for _, _, seeds in jobs} == {(n,) for n in range(10)}
    assert {text for _, text, _ in jobs} == {"qat"}


def test_the_command_line_replaces_sweep_defaults_and_m_may_stand_anywhere() -> None:
    expected = [("Hopper-v4", "fp32", [0, 1]), ("Hopper-v4", "fp32", [2, 3])]
    assert planned("-m +algo=sac env=hopper seed=[0,1],[2,3]") == expected
    assert planned("+algo=sac -m env=hopper seed=[0,1],[2,3]") == expected
    assert planned("+algo=sac env=hopper seed=[0,1],[2,3] --multirun") == expected
    assert planned("+algo=sac env=hopper seed=[0,1],[2,3] hydra.mode=MULTIRUN") == expected


def test_jobs_that_train_go_before_jobs_that_derive() -> None:
    expected = ["fp32", "fp32", "qat", "qat", "ptdq", "ptdq"]
    for given in ("ptdq,qat,fp32", "qat,ptdq"):
        jobs = planned(f"+algo=sac env=hopper seed=0,1 +compress={given} -m")
        assert [text for _, text, _ in jobs] == expected
    overwriting = planned("+algo=sac env=hopper +compress=ptdq,qat seed=0 overwrite=true -m")
    assert [text for _, text, _ in overwriting] == ["qat", "ptdq"]
    assert len(planned("+algo=sac env=hopper seed=0 +compress=qat,fp32 -m")) == 2


def test_the_quickstart_is_a_multirun_of_its_own_and_can_be_narrowed() -> None:
    full = planned("+experiment=quickstart")
    assert [(env_id, text.split("~")[0], seeds) for env_id, text, seeds in full] == [
        ("HalfCheetah-v4", "fp32", [0]),
        ("HalfCheetah-v4", "qat", [0]),
    ]
    (narrow,) = planned("+experiment=quickstart +compress=qat env=hopper seed=4")
    assert narrow[0] == "Hopper-v4"
    assert narrow[2] == [4]


def test_a_preset_wins_over_the_defaults_of_a_group_wherever_it_stands() -> None:
    for arguments in ("+experiment=quickstart +algo=sac", "+algo=sac +experiment=quickstart"):
        plan = make_plan(arguments.split())
        for job in plan.jobs:
            assert isinstance(job.settings.algo, OffPolicySettings)
            assert job.settings.algo.learning_starts == 5000
            assert job.overrides.index("+experiment=quickstart") > job.overrides.index("+algo=sac")


def test_an_environment_id_replaces_the_sweep_over_environments_and_a_version_does_not() -> None:
    assert {env_id for env_id, _, _ in planned("+algo=sac env.id=Walker2d-v5 -m")} == {"Walker2d-v5"}
    versions = {env_id.split("-")[1] for env_id, _, _ in planned("+algo=sac env.version=v5 -m")}
    assert versions == {"v5"}
    assert len(planned("+algo=sac env.version=v5 -m")) == 50


@pytest.mark.parametrize("method", ["qat", "ptsq", "ptdq", "prune_ptsq"])
def test_a_run_is_found_on_a_machine_that_decides_otherwise(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left to the machine is part of the identity as it was asked for, not as it was decided."""

    def run_where(saturates: bool) -> Run:
        monkeypatch.setattr("rlc.config.decide.needs_reduced_range", lambda: saturates)
        (job,) = make_plan(["+algo=sac", f"+compress={method}"]).jobs
        assert not isinstance(job.settings.compress, FP32Settings)
        assert not isinstance(job.asked.compress, FP32Settings)
        assert job.settings.compress.reduce_range is saturates
        assert job.asked.compress.reduce_range == "auto"
        return Run(job, 0)

    runs = [run_where(True), run_where(False)]
    assert runs[0].path == runs[1].path
    assert runs[0].label.partition("-")[0] == method
    assert runs[0].identity == runs[1].identity
    assert runs[0].training_identity == runs[1].training_identity


def test_a_range_that_was_asked_for_is_another_run() -> None:
    (auto, asked) = (
        Run(make_plan(["+algo=sac", "+compress=qat", *more]).jobs[0], 0)
        for more in ([], ["compress.reduce_range=true"])
    )
    assert auto.identity != asked.identity
    assert asked.label.startswith("qat~")


@pytest.mark.parametrize("algo", ["ppo", "trpo"])
def test_on_policy_takes_any_number_of_steps(algo: str) -> None:
    for words in ("total_steps=100_000", "total_steps=1001", "algo.num_envs=7", "algo.rollout_steps=1001"):
        (job,) = make_plan([f"+algo={algo}", words]).jobs
        assert job.settings.algo.name == algo


def test_default_settings_keep_the_plain_label_and_others_get_a_hash() -> None:
    def one(arguments: str) -> str:
        return label(make_plan(f"+algo=sac {arguments}".split()).jobs[0])

    assert one("seed=[4,5] study=other threads=2 wandb.mode=disabled overwrite=true") == "fp32"
    assert one("env.id=Walker2d-v5") == "fp32"
    assert one("env.version=v5") == "fp32"
    assert one("algo.alpha=0.2 total_steps=1e6") == "fp32"
    labels = {one(a) for a in ("algo.alpha=0.1", "algo.alpha=auto", "total_steps=2e6", "eval.episodes=20")}
    assert len(labels) == 4
    assert all(re.fullmatch(r"fp32~[0-9a-f]{6}", text) for text in labels)
    assert one("+compress=ptdq compress.calibration_steps=100").startswith("ptdq~")


def test_paths_separate_environments_versions_and_studies() -> None:
    paths = {
        Run(make_plan(f"+algo=sac {a}".split()).jobs[0], 0).path
        for a in ("", "env.version=v5", "env=hopper", "study=x", "algo.tau=0.01")
    }
    assert len(paths) == 5
    assert Path("outputs/default/HalfCheetah-v4/sac/fp32/seed0") in paths


def test_training_identity_ignores_evaluation_and_derived_methods() -> None:
    def one(arguments: str) -> str:
        return training_identity(make_plan(f"+algo=sac {arguments}".split()).jobs[0].settings)

    assert one("") == one("+compress=ptdq") == one("eval.episodes=50") == one("device=cpu seed=3")
    assert len({one(a) for a in ("", "+compress=qat", "algo.gamma=0.9", "env=ant", "total_steps=11000")}) == 5


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ("+algo=ddpg", "actor_lr", 1e-3),
        ("+algo=ddpg env.version=v5", "critic_lr", 1e-3),
        ("+algo=ddpg env=humanoid", "actor_lr", 3e-4),
        ("+algo=ddpg env.id=Walker2d-v5", "actor_lr", 3e-4),
        ("+algo=ddpg env.id=HalfCheetah-v5", "actor_lr", 1e-3),
        ("+algo=td3 env=humanoid_standup", "reward_scale", 0.01),
        ("+algo=td3 env=humanoid", "reward_scale", 1.0),
        ("+algo=sac env=humanoid_standup", "alpha", 0.05),
        ("+algo=sac env=ant", "alpha", 0.2),
    ],
)
def test_settings_that_depend_on_the_environment_are_defaults(arguments: str, key: str, value: float) -> None:
    (job,) = make_plan(arguments.split()).jobs
    assert getattr(job.settings.algo, key) == value
    assert label(job) == "fp32"


def test_what_is_given_wins_over_what_depends_on_the_environment() -> None:
    (job,) = make_plan(["+algo=ddpg", "algo.actor_lr=1e-4"]).jobs
    algo = job.settings.algo
    assert isinstance(algo, OffPolicySettings)
    assert (algo.actor_lr, algo.critic_lr) == (1e-4, 1e-3)
    assert label(job) != "fp32"


def test_the_checkpoint_period_does_not_change_an_identity() -> None:
    often, never = (make_plan(["+algo=sac", f"checkpoint_every={n}"]).jobs[0] for n in ("1000", "null"))
    assert label(often) == label(never) == "fp32"


def test_a_preset_of_grids_is_narrowed_where_it_fits() -> None:
    words = "+experiment=paper +algo=sac env=hopper seed=0,1 total_steps=20000"
    plan = make_plan(words.split())
    assert plan.multirun
    assert plan.follow_ups == ("measure", "report")
    methods = Counter((job.settings.compress.method, job.settings.protocol) for job in plan.jobs)
    for method in ("fp32", "ptdq", "ptsq", "qat"):
        assert methods.pop((method, "ours")) == methods.pop((method, "paper")) == 2
    assert methods == {("prune_l1", "ours"): 28, ("prune_l2", "ours"): 28}
    assert {job.settings.study for job in plan.jobs} == {"paper"}
    for job in plan.jobs:
        assert Job.from_json(job.to_json()) == job


def test_the_decay_of_the_learning_rate_ends_no_earlier_than_the_run() -> None:
    def horizon(words: str) -> int | None:
        settings = make_plan(["+algo=ppo", *words.split()]).jobs[0].settings.algo
        assert isinstance(settings, PPOSettings)
        return settings.lr_decay_steps

    assert horizon("") == horizon("total_steps=300_000") == 3_000_000
    assert horizon("total_steps=5e6") == 5_000_000
    assert horizon("algo.lr_decay_steps=null total_steps=5e6") is None
    assert horizon("algo.lr_decay_steps=${total_steps}") == 1_000_000


def test_compressions_and_their_settings_reach_the_grids_that_know_them() -> None:
    words = "+experiment=figures +algo=sac env=hopper seed=0 +compress=ptdq,prune_l2 compress.ratio=0.1,0.3 study=mine"
    labels = [job.settings.label for job in make_plan(words.split()).jobs]
    assert sorted(labels) == ["prune_l2-0.10", "prune_l2-0.30", "ptdq"]
    with pytest.raises(UserError, match="none of table1, table2 has these compressions"):
        make_plan(["+experiment=figures", "+compress=prune_qat"])


def test_table_presets_are_the_papers_grids() -> None:
    narrow = ["+algo=td3", "env=hopper"]
    assert len(make_plan(["+experiment=table1", *narrow]).jobs) == 4 * 10
    table2 = make_plan(["+experiment=table2", *narrow, "seed=0"]).jobs
    ratios = sorted({job.settings.compress.ratio for job in table2 if isinstance(job.settings.compress, PruneSettings)})
    assert tuple(ratios) == RATIOS
    for name in ("table1", "table2", "published"):
        params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
        assert params["+algo"].split(",") == list(ALGORITHMS)
        assert len(params["env"].split(",")) == 5
        assert params["seed"] == "range(0,10)"


def test_a_grid_is_counted_with_the_fp32_runs_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlc.grid.estimate.DERIVED_SECONDS", 0.0)
    speeds = {("ppo", "Hopper", "fp32"): 1000.0, ("ppo", "Hopper", "qat"): 500.0, ("sac", "Humanoid", "fp32"): 100.0}
    monkeypatch.setattr("rlc.grid.estimate._speeds", lambda: speeds)

    def line(words: str) -> str:
        jobs = make_plan(words.split()).jobs
        return estimate([Run(job, seed) for job in jobs for seed in job.settings.seed])

    assert line("+algo=ppo +compress=qat env=hopper seed=0,1 total_steps=3600000 -m").startswith("about 4 core-hours")
    assert line("+algo=ppo +compress=prune_l1 env=hopper seed=0 total_steps=3600000 -m").startswith(
        "about 1 core-hours"
    )
    assert line("+algo=ppo +compress=fp32,ptdq env=hopper seed=0 total_steps=3600000 -m").startswith(
        "about 1 core-hours"
    )
    distilled = "+algo=ppo +compress=prune_qat compress.distill.steps=1200000 env=hopper seed=0 total_steps=3600000 -m"
    assert line(distilled).startswith("about 2 core-hours")
    assert "not counted: 1 run " in line("+algo=ppo env=ant seed=0 -m")
    assert "not counted: 1 run " in line("+algo=ppo env.id=Pendulum-v1 seed=0 -m")
    assert line("+algo=ppo env.id=Hopper-v5 seed=0 total_steps=3600000 -m").startswith("about 1 core-hours")
    assert "up to 1.6 GB" in line("+algo=sac env=humanoid seed=0 -m")  # (376 + 17 + 2) x 4 bytes x 1M


def test_an_old_key_of_a_preset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("grids: [table1]\nthen: [measure]\n")
    with pytest.raises(UserError, match=r"mine.yaml: then: no such key; did you mean follow_ups\?"):
        make_plan([f"--config-dir={tmp_path}", "+experiment=mine"])
