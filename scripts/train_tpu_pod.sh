#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice: `NAME=my-v5p-256 ZONE=us-east5-a bash scripts/train_tpu_pod.sh CONFIG [...]`.
#
# Run it where gcloud is set up. Every host needs this repository at $FOLDER with mmtok[tpu] in $FOLDER/.venv, and sees
# the project's folder (for example a mounted bucket). Hosts find each other; each restarts itself after a preemption
# notice or the loss of a peer.
set -eu
: "${NAME:?name of the TPU slice}" "${ZONE:?its zone}"
FOLDER=${FOLDER:-mmtok}
gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all \
    --command "cd $FOLDER && PATH=\$PWD/.venv/bin:\$PATH bash scripts/supervise.sh mmtok train $(printf '%q ' "$@")"
