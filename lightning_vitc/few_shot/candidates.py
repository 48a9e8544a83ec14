"""The blocks that may be compressed or dropped, tried one by one, and put into order."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.backbone import Backbone
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.feature_matching import FeatureMatching

if TYPE_CHECKING:
    from lightning_vitc.training.pipeline import Pipeline

SAVED = 3  # numbers a parameter in a checkpoint: itself and AdamW's two moments


def chosen_candidates(asked: Sequence[int] | None, depth: int) -> list[int]:
    """The blocks that may be compressed; without a choice all but the first and the last.

    Raises:
        UserError: for a block that is not there, or where there is none.
    """
    if asked is None and depth < 3:
        raise UserError(f"method.candidates: {depth} blocks have none between the first and the last; name some")
    chosen = sorted(set(range(1, depth - 1) if asked is None else asked))
    for block in chosen:
        if not 0 <= block < depth:
            raise UserError(f"method.candidates: there is no block {block}; the network has 0 to {depth - 1}")
    if not chosen:
        raise UserError("method.candidates: empty; name at least one block, or leave the key out")
    return chosen


def must_have_room(folder: Path, spec: ArchSpec, count: int) -> None:
    """Refuse to start trials whose checkpoints the disk has no room for.

    Raises:
        UserError: naming what is needed and what is free.
    """
    while not folder.exists():
        folder = folder.parent
    needed, free = count * SAVED * 4 * costs.params(spec), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"output_dir: {count} candidates take up to {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB "
            "free; name another place, or fewer method.candidates"
        )


def tried(
    run: "Pipeline", candidates: Sequence[int], at_once: int, start: Callable[[int], Backbone],
    build: Callable[[Mapping[str, Backbone]], FeatureMatching],
) -> dict[int, Backbone]:  # fmt: skip
    """The fine-tuned candidate of every block: `at_once` of them are a stage, and stages spread over processes.

    Args:
        run: of the stages.
        candidates: blocks; only those of `decided` are needed once there is a decision.
        at_once: candidates that are trained side by side.
        start: the network of a candidate before its trial.
        build: the module that trains networks.
    """
    parts = {f"trials_{first}": candidates[first : first + at_once] for first in range(0, len(candidates), at_once)}

    def module_of(blocks: Sequence[int]) -> Callable[[], FeatureMatching]:
        return lambda: build({block_name(block): start(block) for block in blocks})

    modules = run.spread({stage: module_of(blocks) for stage, blocks in parts.items()})
    found = {name: network for module in modules for name, network in module.networks.items()}
    return {block: found[block_name(block)] for block in candidates}


def block_name(block: int) -> str:
    """Of a candidate in logs and checkpoints."""
    return f"block_{block:02d}"


def ranking(scores: Mapping[int, float], **more: Any) -> dict[str, Any]:
    """The decision as it is recorded: blocks in order of their scores, the lower number first where they are equal."""
    order = sorted(scores, key=lambda block: (scores[block], block))
    return {"order": order, "scores": {str(block): scores[block] for block in scores}, **more}
