#!/usr/bin/env bash
# Checks style, types and import rules, then runs the tests. Arguments go to pytest.
source "$(dirname "$0")/env.sh"

ruff check .
ruff format --check .
PYTHONPATH=. lint-imports
pyright
exec pytest -n "${TEST_PROCESSES:-2}" "$@"
