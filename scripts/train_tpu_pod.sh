#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice: `NAME=my-v5p-256 ZONE=us-east5-a bash scripts/train_tpu_pod.sh CONFIG [...]`.
#
# Run it where gcloud is set up, and where it can stay: the hosts speak through it. Every host needs this repository at
# $FOLDER (below the home folder) with mmtok[tpu] in $FOLDER/.venv, and sees the project's folder (for example a mounted
# bucket). Hosts find each other; each restarts itself after a preemption notice or the loss of a peer.
set -eu
: "${NAME:?name of the TPU slice}" "${ZONE:?its zone}" "${1:?CONFIG, then options}"
printf -v command 'cd %q && PATH=$PWD/.venv/bin:$PATH bash scripts/supervise.sh mmtok train' "${FOLDER:-mmtok}"
printf -v arguments ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$command$arguments"
