#!/usr/bin/env bash
# Trains on GPU nodes under SLURM: `sbatch --nodes 4 scripts/train_slurm.sh CONFIG [--option value ...]`.
#
# One process per GPU; they find each other through SLURM. The folder of the project must be on a shared file system, and
# so must `mmtok`, on PATH: sbatch hands it on from the environment that is active where it is called.
# SLURM warns two minutes before the time limit; a run that was stopped, or lost a process or a node, is queued again and
# resumes, $TRIES times at most. `scancel --signal=TERM JOB` does the same at any time, `scancel JOB` ends it for good.
#SBATCH --job-name=mmtok
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u
# When a process has ended, the others have a minute. Ended at once, those that are about to fail for the same mistake
# would look like victims of a signal; without an end, those whose peer was killed would wait for it.
# srun does not take --cpus-per-task over from sbatch (since SLURM 22.05).
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task="$SLURM_CPUS_PER_TASK" mmtok train "$@"
code=$?
if (((code == 75 || code >= 128) && ${SLURM_RESTART_COUNT:-0} < ${TRIES:-100})); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
