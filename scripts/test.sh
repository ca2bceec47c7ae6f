#!/usr/bin/env bash
# Checks style, types and import rules, then runs the tests. Arguments go to pytest.
source "$(dirname "$0")/env.sh"

ruff check .
ruff format --check .
PYTHONPATH=. lint-imports
pyright
# by file: what the tests of a file share is made once
exec pytest -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
