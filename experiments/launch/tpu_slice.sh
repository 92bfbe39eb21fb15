#!/usr/bin/env bash
# A sweep on a TPU slice that may be taken away at any time; to be run where gcloud is set up:
#
#   NAME=scales ZONE=us-west4-a TYPE=v5litepod-8 OUT=/shared/scales \
#     experiments/launch/tpu_slice.sh --data tfds:cifar10 --family ht0 --grid scale=1,20,80 --seeds 8
#
# OUT must be a directory that all hosts of the slice see and that outlives them, such as a mounted
# bucket or NFS; SETUP is a command that mounts it and installs protonorm_jax on a new host.

set -uo pipefail
: "${NAME:?must be the name of the slice}" "${ZONE:?must be its zone}"
: "${TYPE:?must be its accelerator type}" "${OUT:?must be a directory that all hosts see}"
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SETUP=${SETUP:-"pip install 'protonorm_jax[tpu]'"}
PAUSE=${PAUSE:-60}

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
everywhere() { tpu ssh "$NAME" --worker=all --command="$1"; }
state() { tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo MISSING; }

# The first host finds the sweep begun or not; all of them start the same command.
flags=$(printf ' %q' "$@")
out=$(printf '%q' "$OUT")
work="if [ -e $out/sweep.json ]; then protonorm resume $out --distributed;
else protonorm sweep --distributed --checkpoint-every 20 --out $out$flags; fi"

while true; do
  case $(state) in
    READY) ;;
    MISSING)
      tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" --spot &&
        everywhere "$SETUP" || sleep "$PAUSE"
      continue
      ;;
    CREATING | STARTING | REPAIRING | RESTARTING)
      sleep "$PAUSE"
      continue
      ;;
    *) # PREEMPTED, TERMINATED, STOPPED: what is left of it has to go first.
      tpu delete "$NAME" --quiet
      continue
      ;;
  esac
  everywhere "$work"
  code=$?
  if [[ $code -eq 0 ]]; then
    tpu delete "$NAME" --quiet # A slice that idles costs as much as one that works.
    exit 0
  fi
  # 2 is a mistake in the flags or the data, which would only come again.
  if [[ $code -eq 2 ]]; then
    exit 2
  fi
  sleep "$PAUSE"
done
