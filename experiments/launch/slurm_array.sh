#!/usr/bin/env bash
# A sweep shared by the tasks of a Slurm array, each on a GPU:
#
#   sbatch --export=ALL,OUT=/shared/scales experiments/launch/slurm_array.sh \
#     --data tfds:cifar10 --family ht0 --grid scale=1,20,80 --seeds 8
#
# Tasks may start in any order, at any time, on any nodes. One that is preempted, killed or out of
# time comes back and goes on from its last checkpoint; one that is finished stays away.

#SBATCH --job-name=protonorm
#SBATCH --array=1-4
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
# A warning five minutes before the end, should the time limit below be forgotten.
#SBATCH --signal=USR1@300

set -uo pipefail
: "${OUT:?must be a directory that all nodes see}"

srun protonorm sweep --shard auto --time-limit 3h50m --checkpoint-every 20 --out "$OUT" "$@"
code=$?

# 75: stopped before the end. 138 and 143: USR1 or TERM came before it had begun. Anything else but 0
# is a mistake, and would only come again.
case $code in
  75 | 138 | 143) scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" ;;
esac
exit "$code"
