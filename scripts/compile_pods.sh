#!/usr/bin/env bash
# Compiles the pod configurations for the hardware of docs/pods.md, none of which is needed. Arguments are words that the
# lines to run must contain (all when there are none): `scripts/compile_pods.sh v5p`. Two to eight minutes a line on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lines="
pods_b  --target v4-64
pods_b  --target v5e-64
pods_b  --target v5p-32
pods_b  --target v6e-32
pods_b  --target 2xv5e-32
pods_b  --target 8xH100 --fit.accumulate 2
pods_l  --target v5e-128
pods_l  --target v5p-64
pods_l  --target v6e-64
pods_l  --target 8xH200 --fit.accumulate 2
pods_xl --target v5e-256
pods_xl --target v5p-256
pods_xl --target v5p-256 --fit.mesh.rules fsdp_tp --fit.mesh.fsdp 8 --fit.mesh.tensor 2
pods_xl --target v6e-256
pods_xl --target 2xv5e-256
pods_xl --target 64xH100 --fit.mesh.fsdp 8
pods_xl --target 8xH200 --fit.mesh.fsdp 8 --fit.accumulate 4
"
for word in "$@"; do lines=$(grep -- "$word" <<<"$lines"); done
while read -r line; do
    [ -n "$line" ] || continue
    echo "mmtok compile $line"
    # shellcheck disable=SC2086
    mmtok compile $line || true # one that does not fit says so
done <<<"$lines"
