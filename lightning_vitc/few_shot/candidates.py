"""The blocks that may be compressed or dropped, tried one by one, and put into order."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.feature_matching import FeatureMatching
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.runs.directory import read_json

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

SAVED = 3  # numbers a parameter in a checkpoint: itself and AdamW's two moments
GENERATIONS = 3  # checkpoints of a stage in training: the last, the one before it, and the one being written
STAGES = "trials"  # the record of which candidates are a stage


def must_have_room(run: "Pipeline", candidates: int, at_once: int) -> None:
    """Refuse to start trials whose checkpoints the disk has no room for; those that are done need none.

    Args:
        run: of the trials.
        candidates: how many are tried.
        at_once: candidates that are trained side by side in a process.

    Raises:
        UserError: naming what is needed and what is free.
    """
    if run.read_only:
        return
    folder = run.directory.path
    stages = list(folder.glob("checkpoints/trials_*"))
    layout, done = read_stages(folder), [stage.name for stage in stages if (stage / "done.json").exists()]
    left = candidates - sum(len(layout.get(stage, ())) for stage in done)
    saved = sum(file.stat().st_size for stage in stages if stage.name not in done for file in stage.glob("*.ckpt"))
    while not folder.exists():
        folder = folder.parent
    checkpoints = left + (GENERATIONS - 1) * min(left, at_once * run.processes.count)
    needed, free = checkpoints * SAVED * 4 * costs.params(run.dense_spec) - saved, shutil.disk_usage(folder).free
    if left and needed > free:
        raise UserError(
            f"output_dir: {counted(left, 'candidate takes', 'candidates take')} up to {needed / 1e9:.1f} GB, and "
            f"{folder} has {free / 1e9:.1f} GB free; name another place, or fewer method.candidates"
        )


def tried(
    run: "Pipeline", candidates: Sequence[int], at_once: int, start: Callable[[int], Backbone],
    build: Callable[[Mapping[str, Backbone]], FeatureMatching],
) -> dict[int, Backbone]:  # fmt: skip
    """The fine-tuned candidate of every block: up to `at_once` are a stage, and stages spread over processes.

    Args:
        run: of the stages.
        candidates: blocks, all of which are tried.
        at_once: candidates that are trained side by side; fewer where a process would otherwise have nothing to do.
        start: the network of a candidate before its trial.
        build: the module that trains networks.
    """

    def module_of(blocks: Sequence[int]) -> Callable[[], FeatureMatching]:
        return lambda: build({block_name(block): start(block) for block in blocks})

    parts = _stages(run, candidates, at_once)
    modules = run.spread({stage: module_of(blocks) for stage, blocks in parts.items()})
    found = {name: network for module in modules for name, network in module.networks.items()}
    return {block: found[block_name(block)] for block in candidates}


def read_stages(folder: Path) -> dict[str, list[int]]:
    """The candidates of every stage of trials of a run, as they were once decided; none where they were not."""
    file = folder / f"{STAGES}.json"
    return read_json(file, "stages")["stages"] if file.exists() else {}


def in_parts(candidates: Sequence[int], at_once: int) -> dict[str, list[int]]:
    """Stages of `at_once` candidates."""
    return {f"trials_{first}": list(candidates[first : first + at_once])
            for first in range(0, len(candidates), at_once)}  # fmt: skip


def _stages(run: "Pipeline", candidates: Sequence[int], at_once: int) -> dict[str, list[int]]:
    """Decided when the run begins: it may be continued by another number of processes, or with another `at_once`."""

    def decide() -> dict[str, Any]:
        share = -(-len(candidates) // run.processes.count)
        return {"stages": in_parts(candidates, at_once if _has_trials(run) else min(at_once, share))}

    if run.read_only and not read_stages(run.directory.path):
        return in_parts(candidates, at_once)
    return run.record(STAGES, decide)["stages"]


def _has_trials(run: "Pipeline") -> bool:
    """Without a record of their stages: of a version that did not keep one, and had stages of `at_once`."""
    return any(run.directory.path.glob("checkpoints/trials_*"))


def planned_elimination(run: "Pipeline", elimination: Elimination) -> Elimination:
    """How many whole blocks leave; of a latency it is measured, and recorded as `plan.json`."""
    if elimination.target.table is None:
        elimination.chosen([*elimination.saved])  # refuses what cannot be reached
        return elimination

    def measured() -> dict[str, Any]:
        fitted, facts = elimination.fitted(run.latency.now)
        return {"blocks": fitted.number, "latency_ms": facts}

    return replace(elimination, number=run.record("plan", measured)["blocks"])


def block_name(block: int) -> str:
    """Of a candidate in logs and checkpoints."""
    return f"block_{block:02d}"


def ranking(scores: Mapping[int, float], **more: Any) -> dict[str, Any]:
    """The decision as it is recorded: blocks in order of their scores, the lower number first where they are equal."""
    order = sorted(scores, key=lambda block: (scores[block], block))
    return {"order": order, "scores": {str(block): scores[block] for block in scores}, **more}
