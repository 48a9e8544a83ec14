"""How much of the original is redundant: accuracy without blocks, by which and by how many, before any training."""

from copy import deepcopy

from study import markdown

from lightning_vitc.few_shot.scores import score
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.pipeline.pipeline import dense_of_run
from on_photographs.setting import Part, Phases, Setting, evaluated, kept, of_finished

SEEN, DEEPEST = 50, 5  # training photographs that order the blocks, and blocks that are gone in the end


def none(_: Setting) -> Phases:
    """It needs no run but the original's."""
    return []


def table(setting: Setting) -> str:
    """Without each block alone, and without the first ones of their order."""
    run = setting.original.run
    found = kept(setting, "redundancy", run, lambda: _measured(setting))
    alone = [[f"block {block}", f"{error:.4f}", f"{top1:.2f}"] for block, error, top1 in found["alone"]]
    depth = [[f"{len(gone)}", ", ".join(map(str, gone)), f"{top1:.2f}"] for gone, top1 in found["depth"]]
    return "\n\n".join([
        "One block dropped from the original and nothing trained; the error is the mean squared difference of tokens "
        f"on {SEEN} training photographs:", markdown(["without", "error", "top-1 % (test)"], alone),
        "The blocks of the smallest errors dropped together:",
        markdown(["blocks less", "which", "top-1 % (test)"], depth),
    ])  # fmt: skip


def _measured(setting: Setting) -> dict[str, list[object]]:
    pipeline = of_finished(setting, setting.original.run)
    original = dense_of_run(str(pipeline.directory.path), pipeline.data.classes)
    images, depth = pipeline.data.spread_images("train", SEEN), original.spec.depth
    smaller = {block: _without(original, (block,)) for block in range(depth)}
    errors = {block: score(original, network, images, "mse") for block, network in smaller.items()}
    order = sorted(errors, key=errors.__getitem__)
    sets = [tuple(sorted(order[:count])) for count in range(DEEPEST + 1)]
    networks = {f"alone {block}": network for block, network in smaller.items()}
    networks |= {f"depth {len(gone)}": _without(original, gone) for gone in sets if len(gone) != 1}
    accuracy = {name: values["top1"] for name, values in evaluated(pipeline, networks).items()}
    accuracy["depth 1"] = accuracy[f"alone {order[0]}"]
    return {"alone": [[block, errors[block], accuracy[f"alone {block}"]] for block in range(depth)],
            "depth": [[list(gone), accuracy[f"depth {len(gone)}"]] for gone in sets]}  # fmt: skip


def _without(network: Backbone, blocks: tuple[int, ...]) -> Backbone:
    return compact_backbone(network, without_blocks(network, blocks)) if blocks else deepcopy(network)


PARTS = {"redundancy": Part(none, table)}
