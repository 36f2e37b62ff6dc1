#!/usr/bin/env bash
# The checks that need a CUDA device, in one run of at most ten minutes:
#
#     tests/benchmarks/gpu_check.sh OUT [WHEELS]
#
# Installs the packages of the folder WHEELS first, for a machine without network. Writes into the folder OUT: log,
# gpu.jsonl (one line per measurement), profile.txt (updates of SAC) and gpu_check (ten seeds of SAC, 200,000 steps).
# LIMIT=60 stops each part after that many seconds; PARTS="tests speed" runs these parts only.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?folder for the results}
mkdir -p "$out"
exec > >(tee -a "$out/log") 2>&1
python=${PYTHON:-python3}
if [ -n "${2:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$2"/*.whl || exit 1
    # The folder of a package may be called tests as well: ours comes first.
    export PYTHONPATH=$PWD:$site
fi
export PYTHONUNBUFFERED=1 WANDB_MODE=offline
speed="$python tests/benchmarks/gpu_speed.py --out $out/gpu.jsonl"

part() { # part NAME SECONDS COMMAND...
    local name=$1 seconds=$2
    shift 2
    case " ${PARTS:-$name} " in *" $name "*) ;; *) return ;; esac
    echo "== $name ($(date +%T))"
    timeout "${LIMIT:-$seconds}" "$@" || echo "== $name ended with $?"
}

"$python" -c "import torch; print(torch.__version__, torch.cuda.get_device_name())" || exit 1
part tests 120 "$python" -m pytest -q -m gpu tests/trainers/test_gpu.py
part profile 60 $speed --algos sac --seeds 10 --variants overlap --steps 1000 --parts --profile "$out/profile.txt"
part speed 260 $speed --algos sac,td3,ddpg --seeds 10,1,32 --variants overlap,graph --steps 1000
part eager 60 $speed --algos sac,td3,ddpg --seeds 10 --variants eager --steps 300
part humanoid 60 $speed --algos sac --envs Humanoid-v4 --seeds 10 --variants overlap --steps 1000
# Returns to compare with those of a CPU, and the time of ten million steps of a real training.
part learning 240 "$python" -m rlc.train +algo=sac env=halfcheetah "seed=[0,1,2,3,4,5,6,7,8,9]" total_steps=200000 \
    device=cuda overlap=true env_workers=5 study=gpu_check eval.evaluations=2 eval.episodes=3 checkpoint_every=null \
    overwrite=true
cp -r outputs/gpu_check "$out/" 2>/dev/null
echo "== end ($(date +%T))"
