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
  local on='+algo=trpo,ppo' off='+algo=sac,td3,ddpg total_steps=100000' plain='+compress=fp32,ptdq,ptsq'
  echo "$on $plain env=halfcheetah,hopper $packs"
  # Never ten seeds of the humanoids: their policies, with inputs of 376 numbers, would bring the pack above 30 MB.
  echo "$on $plain env=ant,humanoid,humanoid_standup $five"
  echo "$off $plain env=halfcheetah seed=[0,1,2]"
  # A task counts in the overview once it has all that is made of its policies.
  beside "$on env=halfcheetah,ant,hopper,humanoid,humanoid_standup"
  beside "$off env=halfcheetah"
  echo "$on +experiment=table2 env=halfcheetah,hopper"
  echo "$on +experiment=table2 env=ant,humanoid,humanoid_standup $some"
  echo "$off +experiment=table2 env=halfcheetah seed=0,1,2"
  echo "$on +compress=qat env=halfcheetah,hopper,ant $five"
  echo "$off $plain env=hopper,ant seed=[0,1,2]"
  beside "$off env=hopper,ant"
  echo "$off +experiment=table2 env=hopper,ant seed=0,1,2"
  echo "$on $plain env=ant $packs"
  echo "$on +experiment=table2 env=ant"
  echo "$on +compress=qat env=halfcheetah,hopper,ant $packs"
  echo "$on +compress=qat env=humanoid,humanoid_standup $five"
  echo "$off $plain env=humanoid_standup,humanoid seed=0"
  echo "$off +compress=qat env=hopper,halfcheetah,ant seed=[0,1,2]"
}

beside() {  # the paper's protocol and 4 bits with 70 % pruned, of three seeds of the tasks named
  local distill='compress.distill.steps=24000 compress.distill.rounds=8'
  distill+=' compress.distill.states=5000 compress.distill.lr=3.0e-3'
  echo "$1 +compress=fp32,ptdq,ptsq protocol=paper seed=0,1,2"
  echo "$1 +compress=prune_qat compress.ratio=0.7 compress.weight_bits=4 $distill seed=0,1,2"
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
