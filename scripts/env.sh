# Sourced by the other scripts: enters the project's root and its virtual environment, which is made with the locked
# versions when there is none. PYTHON chooses the interpreter (3.11 or newer) that makes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -f .venv/complete ] || [ requirements.lock -nt .venv/complete ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "mmtok needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON to another interpreter." >&2
        exit 1
    }
    echo "Making the virtual environment .venv (once) ..." >&2
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    touch .venv/complete
fi
export PATH="$PWD/.venv/bin:$PATH"
unset PYTHONDONTWRITEBYTECODE # or every command would compile thousands of modules again

# Huge pages for large temporaries: a third off the training step on Linux CPUs, without effect elsewhere.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
