"""What the launch scripts say to their schedulers, which stand-ins on PATH write down."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ["my config.py", "--root", "/a b/\"c\" 'd'", "--name", "$HOME", "*", "", "two\nlines"]
TELL = 'printf "%s\\0" "$@" > "$SAID/${0##*/}.said"\n'


@pytest.fixture
def launch(tmp_path):
    """Runs a script with stand-ins for some commands, and returns its exit code and the words each of them got."""

    def run(script, *words, stand_ins, **settings):
        for name, body in stand_ins.items():
            command = tmp_path / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(f"#!/usr/bin/env bash\n{TELL}{body}\n")
            command.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SAID": str(tmp_path)}
        command = ["bash", str(SCRIPTS / script), *words]
        ran = subprocess.run(command, env=environment | settings, cwd=tmp_path, capture_output=True, text=True)
        said = {path.stem: path.read_text().split("\0")[:-1] for path in tmp_path.glob("*.said")}
        return ran.returncode, said

    return run


SLURM = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12"}


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, False), (1, 0, False), (2, 0, False), (75, 0, True), (137, 0, True), (143, 99, True), (75, 100, False)],
)
def test_slurm_queues_what_was_stopped_or_killed_again(launch, code, restarts, again):
    stand_ins = {"srun": f"exit {code}", "scontrol": ""}
    settings = SLURM | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
    left, said = launch("train_slurm.sh", *NAMES, stand_ins=stand_ins, **settings)
    assert left == code
    assert said.get("scontrol") == (["requeue", "7"] if again else None)
    assert said["srun"][-len(NAMES) - 2 :] == ["mmtok", "train", *NAMES]
    assert "--cpus-per-task=12" in said["srun"]


@pytest.mark.parametrize("folder", ["mmtok", "my mmtok's"])
def test_tpu_hosts_get_the_words_as_they_are(launch, tmp_path, folder):
    """Gcloud hands one string to the shell of each host."""
    (tmp_path / folder / "scripts").mkdir(parents=True)
    (tmp_path / folder / "scripts" / "supervise.sh").write_text((SCRIPTS / "supervise.sh").read_text())
    stand_ins = {"gcloud": 'exec bash -c "${*: -1}"', "mmtok": 'pwd > "$SAID/where"'}
    code, said = launch("train_tpu_pod.sh", *NAMES, stand_ins=stand_ins, NAME="my-slice", ZONE="z", FOLDER=folder)
    assert code == 0
    assert " ".join(said["gcloud"][:-1]) == "compute tpus tpu-vm ssh my-slice --zone z --worker=all --command"
    assert said["mmtok"] == ["train", *NAMES]
    assert (tmp_path / "where").read_text() == f"{tmp_path / folder}\n"


def test_tpu_without_a_config_asks_nobody(launch):
    code, said = launch("train_tpu_pod.sh", stand_ins={"gcloud": ""}, NAME="my-slice", ZONE="z")
    assert code != 0
    assert said == {}
