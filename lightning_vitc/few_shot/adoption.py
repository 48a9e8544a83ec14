"""Taking over the block trials of another run, where this one would only repeat them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_vitc.config import load_experiment
from lightning_vitc.config.sources import flat
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.candidates import STAGES, in_parts, read_stages
from lightning_vitc.few_shot.metric_set import FILE, PICTURE
from lightning_vitc.few_shot.units import candidates_of
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.runs.class_record import classes_of_run
from lightning_vitc.runs.directory import FREE, RunDirectory, write_json

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

UNRELATED = ("name", "description", "method.trials_of")  # to what a trial computes


def adopt_trials(run: "Pipeline", source: str | None, unrelated: Sequence[str]) -> None:
    """Copy the finished trials of the run `source`, and its metric set, unless they are here.

    Args:
        run: that takes over.
        source: `None` for trials of its own.
        unrelated: keys, or beginnings of keys, that may differ: they change nothing before the ranking.

    Raises:
        UserError: where the runs differ in a key that trials depend on, or the other has not finished them.
    """
    if source is None or run.read_only:
        return
    if not (Path(source) / "config.yaml").is_file():
        raise UserError(f"method.trials_of: '{source}' is not the directory of a run: it has no config.yaml")
    theirs = _must_agree(run, source, (*FREE, *UNRELATED, *unrelated))
    other = RunDirectory(source)
    stages = sorted(path.parent.name for path in other.path.glob("checkpoints/trials_*/done.json"))
    if not stages or not (other.path / "blocks.json").is_file():
        raise UserError(f"method.trials_of: {source} has not finished its trials; continue it with 'vitc train'")
    if run.processes.rank == 0:
        candidates = candidates_of(theirs, run.dense_spec)
        layout = {"stages": read_stages(other.path) or in_parts(candidates, theirs.trials_at_once)}
        write_json(run.directory.path / f"{STAGES}.json", layout)
        for stage in stages:
            _copy(other.stage(stage), run.directory.stage(stage))
        for name in (FILE, PICTURE, "synthetic.json"):  # the record last: it says that the set is there
            if (other.path / name).is_file():
                write_atomically(run.directory.path / name, (other.path / name).read_bytes())
    run.processes.wait()


def _must_agree(run: "Pipeline", source: str, free: tuple[str, ...]) -> Any:
    """The other run's arguments of the method, which agree with this one's but for what is free."""
    theirs = load_experiment(str(Path(source) / "config.yaml"), check_files=False)
    known = classes_of_run(RunDirectory(source), theirs.data, evaluated=True)
    if known is not None and known.names != run.data.classes:
        raise UserError(f"method.trials_of: {source} has other classes, or in another order, than data.root here")
    there, here = flat(theirs.to_container()), flat(run.experiment.to_container())
    if run.experiment.teacher.run == source:  # its dense network is the original of both
        free = (*free, "teacher.")
    for key in sorted(there.keys() | here.keys()):
        if not key.startswith(free) and there.get(key) != here.get(key):
            raise UserError(
                f"method.trials_of: {source} was run with {key}={there.get(key)}, this run has {here.get(key)}; "
                "trials depend on it"
            )
    return theirs.method


def _copy(source: Path, target: Path) -> None:
    """Whole, or not at all."""
    if (target / "done.json").exists():
        return
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
