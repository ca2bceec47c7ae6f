"""The supervisor starts again what asks for it, and nothing else."""

import os
import subprocess
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
