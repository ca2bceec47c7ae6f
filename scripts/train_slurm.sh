#!/usr/bin/env bash
# Trains on GPU nodes under SLURM: `sbatch --nodes 4 scripts/train_slurm.sh CONFIG [--option value ...]`.
#
# One process per GPU; they find each other through SLURM. The folder of the project must be on a shared file system.
# SLURM warns two minutes before the time limit; a run that was stopped, or lost a node, is queued again and resumes.
#SBATCH --job-name=mmtok
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
srun --kill-on-bad-exit=1 mmtok train "$@"
code=$?
if ((code == 75 || code >= 128)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
