#!/usr/bin/env bash
# Runs a command again for as long as it asks for it: `bash scripts/supervise.sh mmtok train CONFIG ...`.
#
# 75: it was told to stop and has saved a checkpoint. A signal (128 and more, such as the abort of a process whose peer
# died): the newest whole checkpoint is the place to go on from. Any other failure is for a person. $TRIES bounds it.
set -u
for ((try = 1; try <= ${TRIES:-100}; try++)); do
    "$@"
    code=$?
    if ((code != 75 && code < 128)); then exit "$code"; fi
    echo "exit code $code, attempt $try of ${TRIES:-100}: starting again in ${PAUSE:-10} s" >&2
    sleep "${PAUSE:-10}"
done
exit "$code"
