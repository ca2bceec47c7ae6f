#!/usr/bin/env bash
# Runs a command again for as long as it asks for it: `bash scripts/supervise.sh mmtok train CONFIG ...`.
#
# 75: it was told to stop and has saved a checkpoint. A signal (128 and more, such as the abort of a process whose peer
# died): the newest whole checkpoint is the place to go on from. Any other failure is for a person. $TRIES bounds it.
# Told to stop itself (SIGTERM, Ctrl-C), it passes that on, waits, and ends with the command's code.
set -u
told=0 child=
trap 'told=$((told + 1)); [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT
for ((try = 1; try <= ${TRIES:-100}; try++)); do
    if ((try > 1)); then
        child=
        echo "exit code $code: starting again in ${PAUSE:-10} s, attempt $try of ${TRIES:-100}" >&2
        sleep "${PAUSE:-10}"
        if ((told > 0)); then exit "$code"; fi
    fi
    "$@" &
    child=$!
    known=-1
    until ((told == known)); do # a signal ends the waiting, not the command
        known=$told
        wait "$child"
        code=$?
    done
    if ((told > 0 || (code != 75 && code < 128))); then exit "$code"; fi
done
exit "$code"
