#!/usr/bin/env bash
# Keeps the study of the paper going in the background: one core, lowest priority, from a copy of the code of its own.
# From the project's root, with its .venv set up:
#   tests/benchmarks/campaign.sh start [commit]   go on with the grids below; with a commit, first move the copy to it
#   tests/benchmarks/campaign.sh status           what it is doing
#   tests/benchmarks/campaign.sh pack             put what is finished into outputs/paper/pack, which git keeps
#   tests/benchmarks/campaign.sh stop             end it; what runs goes on from its checkpoint at the next start
# Runs land in outputs/paper of the project. Every grid skips what is finished.
set -euo pipefail
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
home="$root/outputs/.campaign" source="$home/src" log="$home/log" pidfile="$home/pid"
script="$root/tests/benchmarks/campaign.sh"

grids() {  # in the order of what the tables need most: five seeds of everything before ten
  local packs='seed=[0,1,2,3,4],[5,6,7,8,9]' five='seed=[0,1,2,3,4]' some='seed=0,1,2,3,4'
  echo "+algo=trpo,ppo +compress=fp32,ptdq,ptsq env=halfcheetah,hopper $packs"
  # Never ten seeds of the humanoids: their policies, with inputs of 376 numbers, would bring the pack above 30 MB.
  echo "+algo=ppo +compress=fp32,ptdq,ptsq env=ant,humanoid $five"
  echo "+algo=ppo,trpo +compress=qat env=halfcheetah,hopper $five"
  echo "+experiment=table2 +algo=trpo,ppo env=halfcheetah,hopper $some"
  echo "+experiment=table2 +algo=ppo env=ant,humanoid $some"
  echo "+algo=sac,ddpg,td3 +compress=fp32,ptdq,ptsq env=halfcheetah seed=[0,1,2] total_steps=100000"
  echo "+experiment=table2 +algo=sac,ddpg,td3 env=halfcheetah seed=0,1,2 total_steps=100000"
  echo "+algo=trpo +compress=fp32,ptdq,ptsq env=ant $five"
  echo "+algo=ppo,trpo +compress=fp32,ptdq,ptsq env=humanoid,humanoid_standup $five"
  echo "+algo=ppo,trpo +compress=qat env=ant $five"
  echo "+algo=sac,td3,ddpg +compress=fp32,ptdq,ptsq env=hopper,ant seed=[0,1,2] total_steps=100000"
  echo "+algo=trpo,ppo +compress=fp32,ptdq,ptsq env=ant $packs"
  echo "+algo=trpo,ppo +compress=qat env=halfcheetah,hopper,ant $packs"
  echo "+algo=trpo,ppo +compress=qat env=humanoid,humanoid_standup $five"
  echo "+experiment=table2 +algo=trpo,ppo env=halfcheetah,hopper,ant"
  echo "+experiment=table2 +algo=trpo,ppo env=humanoid,humanoid_standup $some"
  echo "+algo=sac,td3,ddpg +compress=fp32,ptdq,ptsq env=humanoid_standup,humanoid seed=0 total_steps=100000"
  echo "+algo=sac,td3,ddpg +compress=qat env=hopper,halfcheetah,ant seed=[0,1,2] total_steps=100000"
  echo "+experiment=table2 +algo=sac,td3,ddpg env=hopper,ant seed=0,1,2 total_steps=100000"
}

rlc() {  # a command of the copy: not of the files being edited. Children inherit both variables.
  cd "$root"
  PYTHONPATH="$source" PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 "$root/.venv/bin/python" -m "rlc.$1" "${@:2}"
}

run() {
  grids | while read -r words; do
    echo "== $words"
    # shellcheck disable=SC2086
    rlc train $words study=paper wandb.mode=disabled hydra/launcher=basic -m </dev/null || echo "== ended with code $?"
  done
}

runs() { [ -f "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }

case "${1:-status}" in
  start)
    mkdir -p "$home"
    if runs; then echo "runs already: $(cat "$pidfile")"; exit 0; fi
    [ -d "$source/.git" ] || git clone -q "$root" "$source"
    if [ -n "${2:-}" ]; then
      git -C "$source" fetch -q origin
      git -C "$source" checkout -q "$2"
    fi
    core=$(($(nproc) - 1))
    setsid nice -n 19 taskset -c "$core" "$script" run >>"$log" 2>&1 </dev/null &
    echo $! >"$pidfile"
    echo "started on core $core with the code of $(git -C "$source" rev-parse --short HEAD); log: ${log#"$root"/}" ;;
  run)
    # Where the kernel weighs sessions against each other (autogroup), `nice` counts inside this session only.
    [ ! -w /proc/self/autogroup ] || echo 19 >/proc/self/autogroup
    run ;;
  status)
    if runs; then echo "running: $(cat "$pidfile")"; else echo "not running"; fi
    tail -n 3 "$log" 2>/dev/null || true
    rlc status study=paper 2>/dev/null | tail -n 12 ;;
  pack) rlc pack study=paper ;;
  stop)
    if [ -f "$pidfile" ]; then
      kill -TERM -- "-$(cat "$pidfile")" 2>/dev/null || true
      rm -f "$pidfile"
    fi
    echo stopped ;;
  *)
    sed -n '2,9p' "$0"
    exit 2 ;;
esac
