#!/usr/bin/env bash
# A sweep on a TPU slice that may be taken away at any time; to be run where gcloud is set up:
#
#   NAME=scales ZONE=us-west4-a TYPE=v5litepod-8 OUT=/shared/scales \
#     experiments/launch/tpu_slice.sh --data tfds:cifar10 --family ht0 --grid scale=1,20,80 --seeds 8
#
# OUT must be a directory that all hosts of the slice see and that outlives them, such as a mounted
# bucket or NFS. SETUP is run on every host before each start: it mounts that and installs what is
# missing.

set -uo pipefail
: "${NAME:?must be the name of the slice}" "${ZONE:?must be its zone}"
: "${TYPE:?must be its accelerator type}" "${OUT:?must be a directory that all hosts see}"
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SETUP=${SETUP:-"pip install --quiet 'protonorm_jax[tpu]'"}
PAUSE=${PAUSE:-60}

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

# One job alone, of all hosts: the same command begins the sweep and goes on with it.
work=$(printf ' %q' protonorm sweep --distributed --shard 1/1 --checkpoint-every 20 --out "$OUT" "$@")

while true; do
  case $(tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo MISSING) in
    READY)
      tpu ssh "$NAME" --worker=all --command="$SETUP && exec$work"
      code=$?
      # A slice that idles costs as much as one that works. 2 is a mistake in the flags or the data,
      # which would only come again.
      if [[ $code -eq 0 || $code -eq 2 ]]; then
        tpu delete "$NAME" --quiet
        exit "$code"
      fi
      ;;
    MISSING)
      tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" --spot && continue
      ;;
    PREEMPTED | TERMINATED | STOPPED)
      tpu delete "$NAME" --quiet && continue
      ;;
  esac
  sleep "$PAUSE"
done
