"""The batch script, what sbatch is asked, and that the run it starts accepts the directory the script is in."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_vitc.commands import _batch_script as slurm
from lightning_vitc.commands._batch_script import script, write_script
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.networks.families import supported

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING = (
    "slurm.nodes=4", "slurm.gpus_per_node=8", "slurm.cpus_per_task=12", "slurm.time=2-00:00:00", "slurm.account=lab",
    "slurm.partition=long", "slurm.constraint=a100&ib", "slurm.mem=400G",
    "slurm.qos=high", "slurm.reservation=week 9", "slurm.exclude=node[3-5]", "slurm.mail_user=a@b.c",
    "slurm.mail_type=END,FAIL", "slurm.extra=['--gres=gpu:a100:8', --exclusive]",
    "slurm.setup=['module load cuda/12', 'source \"/my env/bin/activate\"']",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_script(here):
    overrides = ["method.granularity=0.25", "data.scale=[0.5, 1]"]
    experiment = load_experiment("scala_digits", [*overrides, *EVERYTHING])
    assert (
        script(experiment, "scala_digits", overrides)
        == f"""#!/bin/bash
#SBATCH --job-name=scala_digits-default
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=8
#SBATCH --time=2-00:00:00
#SBATCH --account=lab
#SBATCH --partition=long
#SBATCH --constraint='a100&ib'
#SBATCH --mem=400G
#SBATCH --qos=high
#SBATCH --reservation='week 9'
#SBATCH --exclude='node[3-5]'
#SBATCH --mail-user=a@b.c
#SBATCH --mail-type=END,FAIL
#SBATCH --output={here}/runs/scala_digits/default/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@120
#SBATCH --gres=gpu:a100:8
#SBATCH --exclusive

set -euo pipefail
cd {here}
module load cuda/12
source "/my env/bin/activate"

srun --kill-on-bad-exit=1 --cpus-per-task=12 \
{sys.executable} -P -m lightning_vitc train scala_digits method.granularity=0.25 \
'data.scale=[0.5, 1]' trainer.num_nodes=4 trainer.devices=8 trainer.accelerator=gpu
"""
    )


def test_one_process_a_node_without_gpus(here):
    text = script(load_experiment("scala_digits", ["slurm.gpus_per_node=0"]), "scala_digits", [])
    assert "gpus-per-node" not in text
    assert "--ntasks-per-node=1\n" in text
    assert "trainer.devices=1 trainer.accelerator=cpu" in text
    for unset in ("account", "partition", "constraint", "mem"):
        assert f"--{unset}" not in text
    assert "source" not in text  # the interpreter that wrote the script runs it
    assert f" {shlex.quote(sys.executable)} -P -m lightning_vitc " in text


def test_names_with_blanks_and_quotes(tmp_path, monkeypatch):
    """Bash reads back the words that were meant."""
    place = tmp_path / "it's here"
    place.mkdir()
    monkeypatch.chdir(place)
    experiment = load_experiment("scala_digits", ["output_dir=my runs"])
    path = write_script(experiment, "scala_digits", ["output_dir=my runs", "data.root=$HOME/a b"])
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    *_, output, mode, requeue, _ = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH")]
    assert shlex.split(output)[1] == f"--output={place}/my runs/scala_digits/default/slurm-%j.log"
    assert (mode, requeue) == ("#SBATCH --open-mode=append", "#SBATCH --requeue")
    last = path.read_text().splitlines()[-1]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {last}"], check=False, capture_output=True, text=True).stdout
    assert words.splitlines()[-5:-3] == ["output_dir=my runs", "data.root=$HOME/a b"]


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_the_script_itself_where_a_folder_has_the_name_of_a_package(tmp_path, vitc, tiny):
    """Run by bash, with an `srun` that starts one task: installed packages are imported, not those folders."""
    overrides = [*tiny[:5], "trainer.max_epochs=1", "optimizer.warmup_epochs=0"]
    assert vitc("slurm", "dense_digits", *overrides, "--gpus-per-node", "0").code == 0
    for name in ("timm", "torch", "lightning", "lightning_vitc", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not the installed one')\n")
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    run = tmp_path / "runs" / "dense_digits" / "default"
    command = ["bash", str(run / "train.sbatch")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (run / "result.json").is_file()


# The command


def test_command_and_flags(vitc):
    flags = ("--nodes", "2", "--gpus-per-node", "4", "--time", "01:00:00", "--partition", "long")
    done = vitc("slurm", "scala_digits", "seed=3", *flags)
    path = "runs/scala_digits/default/train.sbatch"
    assert (done.code, done.out, done.error) == (0, f"{path}\nsubmit it with: sbatch {path}\n", "")
    text = (vitc.place / path).read_text()
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=01:00:00", "--partition=long"):
        assert f"#SBATCH {line}\n" in text
    assert "train scala_digits seed=3 trainer.num_nodes=2 trainer.devices=4 trainer.accelerator=gpu\n" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scala_digit"], "scala_digit: unknown experiment; did you mean 'scala_digits'? See 'vitc list'"),
        (["scala_digits", "--nodes", "0"], "slurm.nodes: 0 is out of range; it must be > 0"),
        (["scala_digits", "--nodes", "many"], None),
        (
            ["scala_digits", "slurm.extra=[gres=gpu:4]"],
            "slurm.extra: ['gres=gpu:4'] is not a list of options of sbatch of one line, such as --gres=gpu:4",
        ),
        (
            ["scala_digits", "--array", "5"],
            "--array: '5' is no range of seeds; give 0-4, or 0-4%2 for two at a time",
        ),
        (["scala_digits", "slurm.node=2"], "slurm.node: unknown key; did you mean 'slurm.nodes'?"),
        (
            ["scala_digits", "--time", "soon"],
            "slurm.time: 'soon' is no time limit; give minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS",
        ),
        (
            ["scala_digits", "--nodes", "3"],
            "data.batch_size: 32 images do not divide over 3 processes x 1 accumulated batch; "
            "33 is the nearest that does",
        ),
        (
            ["scala_digits", "model.name=nosuch"],
            f"model.name: unknown timm model 'nosuch'; the families, with models of them: {supported()}",
        ),
        (["scala_digits", "output_dir=/proc/x"], "output_dir: /proc/x: no permission to write"),
        (
            ["scala_digits", "trainer.limit_test_batches=0.001"],
            "trainer.limit_test_batches: 0.001 of the 2 test batches is less than one; give a number of batches, such "
            "as 1",
        ),
        (
            ["scala_digits", "trainer.limit_test_batches=0.5", "--gpus-per-node", "2"],  # 360 images, 180 a process
            "trainer.limit_test_batches: 0.5 of the one test batch is less than one; give a number of batches, such as "
            "1",
        ),
        (
            ["scala_digits", "data.num_samples=5000"],
            "data.num_samples: digits has 1,259 training images; not 5,000",
        ),
    ],
)
def test_refusals(vitc, arguments, message):
    done = vitc("slurm", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.error.count("\n") == 1
    assert done.error == f"error: {message}\n" if message else done.error.startswith("error: ")
    assert not (vitc.place / "runs").exists()


def test_data_that_only_the_nodes_have(vitc):
    arguments = ("slurm", "scala_digits", "data.name=folder", "data.root=/nodes/only", "model.in_chans=3")
    assert "/nodes/only" in vitc(*arguments).error
    assert vitc(*arguments, "--no-data-check").code == 0
    assert (vitc.place / "runs/scala_digits/default/train.sbatch").is_file()


def test_an_array_of_seeds(vitc):
    done = vitc("slurm", "dense_digits", "run_name=x", "--array", "3-5%2", "--partition", "long")
    path = "runs/dense_digits/sweep/sweep.sbatch"
    assert (done.code, done.out) == (0, f"{path}\nsubmit it with: sbatch {path}\n")
    text = (vitc.place / path).read_text()
    assert "#SBATCH --array=0-2%2\n" in text
    assert "#SBATCH --partition=long\n" in text
    for seed in (3, 4, 5):
        assert f"seed={seed} run_name=x-seed{seed} " in text


def test_a_share_of_the_batches_of_one_process_is_enough(vitc):
    """What two processes leave nothing of, one does not."""
    arguments = ("slurm", "scala_digits", "trainer.limit_test_batches=0.5", "trainer.devices=2")
    assert vitc(*arguments, "--gpus-per-node", "0").code == 0


@pytest.mark.parametrize("time", ["90", "30:00", "12:30:00", "1-12", "1-12:30", "1-12:30:00"])
def test_times(here, time):
    assert write_script(load_experiment("scala_digits", [f"slurm.time='{time}'"]), "scala_digits", []).is_file()


@pytest.mark.parametrize("time", ["", "1d", "24h", "1:2:3:4", "-5", "1-", "12:", "1 -12"])
def test_no_times(here, time):
    with pytest.raises(UserError, match=r"^slurm\.time: "):
        write_script(load_experiment("scala_digits", [f"slurm.time='{time}'"]), "scala_digits", [])


def test_a_run_of_another_config_is_not_touched(vitc):
    assert vitc("slurm", "scala_digits").code == 0
    before = (vitc.place / "runs/scala_digits/default/train.sbatch").read_text()
    done = vitc("slurm", "scala_digits", "seed=1")
    assert done.code == 2
    assert "holds a run with seed=0, this one has 1" in done.error
    assert (vitc.place / "runs/scala_digits/default/train.sbatch").read_text() == before
    assert vitc("slurm", "scala_digits", "--nodes", "4").code == 0  # where it runs is free


def test_while_the_script_is_written_nobody_else_opens_the_run(here, monkeypatch, fork):
    """Who opens a run removes what a killed process has left half written: the script of another start, it seemed."""
    experiment, told = load_experiment("scala_digits"), here / "told"

    def meanwhile(path: Path, data: bytes) -> None:
        half = path.with_name(f".{path.name}.1.tmp")
        half.write_bytes(data)
        fork(OTHER_START, place=str(here), told=str(told)).join()
        half.rename(path)

    monkeypatch.setattr(slurm, "write_atomically", meanwhile)
    assert write_script(experiment, "scala_digits", []).read_text().startswith("#!/bin/bash")
    assert "another process is running this run" in told.read_text()


OTHER_START = """
import os, pathlib
os.chdir(place)
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.runs.directory import RunDirectory
experiment = load_experiment("scala_digits")
try:
    RunDirectory.of(experiment).open(experiment)
    said = "opened"
except UserError as error:
    said = str(error)
pathlib.Path(told).write_text(said)
"""


@pytest.mark.slow
def test_the_job_finds_its_run(vitc, tiny):
    """What the script starts accepts the directory that it is in, with the log that Slurm has opened there."""
    assert vitc("slurm", "scala_digits", *tiny, "--gpus-per-node", "0").code == 0
    run = vitc.place / "runs" / "scala_digits" / "default"
    (run / "slurm-7.log").write_text("")
    command = (run / "train.sbatch").read_text().split("-m lightning_vitc ")[1].strip()
    done = vitc(*shlex.split(command))
    assert (done.code, done.error) == (0, "")
    assert (run / "result.json").is_file()


def test_make_slurm(tmp_path, vitc):
    """The variables of the Makefile are the command's options, each left out where it is not given."""
    make = ["make", "-s", "--old-file=.venv/.ready", "slurm", "EXP=scala_digits", "VITC=printf '%s\\n'"]
    words = ["NODES=2", "GPUS=4", "TIME=01:00:00", f"ARGS=output_dir={tmp_path} seed=3"]
    made = subprocess.run([*make, *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    done = vitc(*made.stdout.splitlines())
    text = (tmp_path / "scala_digits/default/train.sbatch").read_text()
    assert done.out.startswith(f"{tmp_path}/scala_digits/default/train.sbatch\n")
    for line in ("--nodes=2", "--gpus-per-node=4", "--time=01:00:00"):
        assert f"#SBATCH {line}\n" in text
    assert f"train scala_digits output_dir={tmp_path} seed=3 trainer.num_nodes=2 trainer.devices=4" in text
    made = subprocess.run([*make, "NODES=2"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["slurm", "scala_digits", "--nodes", "2"]


# Submitting

SBATCH = """#!{python}
import sys
from pathlib import Path
Path({log!r}).write_text(" ".join(sys.argv[1:]))
{action}
"""


@pytest.fixture
def sbatch(tmp_path):
    """Put a program of this name first in PATH."""

    def make(action: str) -> str:
        program = tmp_path / "bin" / "sbatch"
        program.parent.mkdir()
        program.write_text(SBATCH.format(python=sys.executable, log=str(tmp_path / "asked"), action=action))
        program.chmod(0o755)
        return str(program.parent)

    return make


def test_submitting(vitc, sbatch):
    done = vitc("slurm", "scala_digits", "--submit", PATH=sbatch("print('4711;cluster')"))
    run = Path("runs/scala_digits/default")
    assert (done.code, done.error) == (0, "")
    assert done.out.splitlines()[1] == (f"job 4711; watch it with: squeue -j 4711, tail -f {run}/slurm-4711.log")
    assert (vitc.place / "asked").read_text() == f"--parsable {run}/train.sbatch"


def test_what_is_printed_can_be_pasted(vitc, sbatch):
    done = vitc("slurm", "scala_digits", "output_dir=my runs")
    assert shlex.split(done.out.splitlines()[1])[-2:] == ["sbatch", "my runs/scala_digits/default/train.sbatch"]
    done = vitc("slurm", "scala_digits", "output_dir=my runs", "--submit", PATH=sbatch("print(7)"))
    assert shlex.split(done.out.splitlines()[1])[-1] == "my runs/scala_digits/default/slurm-7.log"


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("sys.exit('sbatch: error: hint\\nsbatch: error: Batch job submission failed')",
         "sbatch: error: Batch job submission failed"),
        ("sys.exit(1)", "it gave no reason"),
    ],
)  # fmt: skip
def test_sbatch_that_refuses(vitc, sbatch, action, reason):
    done = vitc("slurm", "scala_digits", "--submit", PATH=sbatch(action))
    assert (done.code, done.error) == (2, f"error: --submit: sbatch refused: {reason}\n")


def test_no_sbatch_here(vitc):
    done = vitc("slurm", "scala_digits", "--submit", PATH="/nowhere")
    message = "--submit: there is no sbatch on this machine; submit the script from a login node"
    assert (done.code, done.error) == (2, f"error: {message}\n")
    assert (vitc.place / "runs/scala_digits/default/train.sbatch").is_file()
