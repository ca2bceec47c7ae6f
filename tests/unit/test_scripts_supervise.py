"""The supervisor starts again what asks for it, and nothing else."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "supervise.sh"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0,), 0), ((1,), 1), ((75, 75, 0), 0), ((134, 2), 2), ((75, 75, 75, 75), 75)],
)
def test_starts_again_after_a_stop_and_after_a_signal(tmp_path, codes, expected):
    count = tmp_path / "count"
    command = f"n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}; codes=({' '.join(map(str, codes))})"
    command += "; exit ${codes[$n]}"
    environment = {**os.environ, "PAUSE": "0", "TRIES": "4"}
    ran = subprocess.run(["bash", str(SCRIPT), "bash", "-c", command], env=environment, capture_output=True)
    assert ran.returncode == expected
    assert int(count.read_text()) == len(codes)


def test_passes_on_what_it_is_told_and_ends(tmp_path):
    started = tmp_path / "started"
    command = f"trap 'sleep 0.3; exit 75' TERM; echo once >> {started}; while true; do sleep 0.05; done"
    environment = {**os.environ, "PAUSE": "0", "TRIES": "4"}
    process = subprocess.Popen(["bash", str(SCRIPT), "bash", "-c", command], env=environment)
    limit = time.monotonic() + 60
    while not started.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 75
    assert started.read_text() == "once\n"
