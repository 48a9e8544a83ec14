"""`.pt2` files of strangers: what `vitc export` writes is loaded, and anything else is refused by its name."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_vitc.errors import UserError
from lightning_vitc.exporting import pt2_archive
from lightning_vitc.exporting.deployed import Pt2Network
from lightning_vitc.exporting.pt2_archive import OPERATORS
from lightning_vitc.exporting.write_formats import write_pt2
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.eva.shape import Options as EvaOptions
from lightning_vitc.networks.families.family import network_of as family_of
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.families.t2t.names import NAMES
from lightning_vitc.networks.families.uniformer.names import NAMES as UNIFORMERS
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import set_gating
from lightning_vitc.networks.modules.activations import ACTIVATIONS
from lightning_vitc.networks.spec import ArchSpec

WHOLE = attention(4, (4,) * 6)
PLAIN = vit(
    name="vit_tiny_patch16_224", img_size=(8, 8), patch_size=(4, 4), in_chans=1, num_classes=10, embed_dim=24,
    blocks=(vit_block(WHOLE, 96),), scale=0.5,
)  # fmt: skip


def network_of(spec: ArchSpec, gating: str = "per_sample") -> Any:
    torch.manual_seed(0)
    family = family_of(spec)
    network = family.build(spec, {})
    family.initialize(network)
    set_gating(network, gating)
    return network.eval()


@pytest.fixture(scope="module")
def pt2(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    write_pt2(network_of(PLAIN), (1, 8, 8), path)
    return path


Change = Callable[[str, bytes], bytes]


def changed(pt2: Path, target: Path, change: Change, more: dict[str, bytes] | None = None) -> Path:
    """The same archive with entries changed and added."""
    with zipfile.ZipFile(pt2) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, change(name, source.read(name)))
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return target


def in_json(end: str, old: str, new: str) -> Change:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(end):
            return content
        assert old in content.decode()
        return content.decode().replace(old, new, 1).encode()

    return change


def test_an_exported_graph_is_what_torch_reads(pt2):
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(Pt2Network(pt2)(images), torch.export.load(pt2).module()(images))


GRAPH, WEIGHTS = "models/model.json", "model_weights_config.json"
CODE = "__import__('os').system('touch MARK')"
FORGED = {
    "a pickled weight": (in_json(WEIGHTS, '"use_pickle": false', '"use_pickle": true'), "a pickled tensor"),
    "a size": (in_json(GRAPH, "Symbol('s77', positive=True, integer=True)", CODE), "__import__"),
    "a guard": (in_json(GRAPH, '"guards_code": []', f'"guards_code": ["{CODE}"]'), "guards, which are source code"),
    "an argument": (in_json(GRAPH, '"name": "self"', f'"name": "x={CODE}"'), "__import__"),
    "a function as an argument": (in_json(GRAPH, '"as_int": 1', '"as_operator": "torch.hub.load"'), "as_operator"),
    "an object of a class": (in_json(GRAPH, '"as_int": 1', '"as_custom_obj": {"name": "x"}'), "as_custom_obj"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_graph(pt2, tmp_path, mark, what):
    change, reason = FORGED[what]
    path = changed(pt2, tmp_path / "forged.pt2", lambda *entry: change(*entry).replace(b"MARK", str(mark).encode()))
    with pytest.raises(UserError) as caught:
        Pt2Network(path)
    assert str(caught.value).startswith(f"{path}: not loaded: it holds ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


STRANGE = (
    "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.ops.aten._print.default",
    "torch.ops.aten.linear.out", "torch.ops.aten.add_.Tensor", "torch.ops.prims.sin.default",
    "torch.ops.quantized.linear.default", "torch.ops.mkldnn._linear_pointwise.default", "torch.ops.load_library",
    "torch.ops.higher_order.while_loop", "torch.ops.higher_order.call_torchbind", "_operator.methodcaller",
    "_operator.getitem", "math.sqrt", "torch.hub.load", "torch.save", "torch.ops.aten.linear.default.__class__",
    "#module:function", "operator", "",
)  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_operators_of_no_network(pt2, tmp_path, mark, name):
    """Those that read and write files first."""
    path = changed(pt2, tmp_path / "forged.pt2", in_json(GRAPH, '"torch.ops.aten.linear.default"', f'"{name}"'))
    with pytest.raises(UserError) as caught:
        Pt2Network(path)
    assert str(caught.value) == (
        f"{path}: not loaded: it holds the operator {name!r}, which a file of 'vitc export' never holds"
    )


def test_every_other_operator_of_torch():
    """All of its schemas, some thousands, by the names that a graph calls them."""
    names = {(schema.name, schema.overload_name or "default") for schema in torch._C._jit_get_all_schemas()}
    named = {f"torch.ops.{name.replace('::', '.')}.{overload}" for name, overload in names}
    assert len(named) > 3000
    assert named >= OPERATORS - {"torch.ops.higher_order.cond"}
    for name in sorted(named - OPERATORS):
        with pytest.raises(Exception, match="it holds the operator"):
            pt2_archive._walked("nodes", [{"target": name}])


def operators_in(path: Path) -> set[str]:
    """All that a graph and its branches call."""

    def walk(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["target"]} if isinstance(value.get("target"), str) else set()
            return own.union(*map(walk, value.values()))
        return set().union(*map(walk, value)) if isinstance(value, list) else set()

    with zipfile.ZipFile(path) as archive:
        (graph,) = (name for name in archive.namelist() if name.endswith(GRAPH))
        return walk(json.loads(archive.read(graph)))


UNEVEN = attention(4, (4, 1, 3))
PRUNED = (vit_block(UNEVEN, 7), vit_block(None, 5), vit_block(WHOLE, None), vit_block(None, None), vit_block(UNEVEN, 0))
KINDS = [*GATES, *list(GATES)[:1]]
GATED = tuple(vit_block(WHOLE, 96).with_gates(pair) for pair in zip(KINDS[::2], KINDS[1::2], strict=True))
WINDOWS = replace(swin("windows", 8, (2, 1), (1, 2), window_size=2, img_size=20, num_classes=5), in_chans=1)
UNIFORMER = {"img_size": 32, "in_chans": 1, "embed_dim": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "num_heads": [2, 2]}
T2T = {"img_size": 16, "in_chans": 1, "embed_dim": 24, "depth": 1, "num_heads": 2}
NETWORKS = {
    "plain": PLAIN,
    "pruned, largest of tokens, gelu_tanh": PLAIN.with_stage(*PRUNED).with_options(
        global_pool="avgmax", pool_include_prefix=True, act="gelu_tanh"
    ),
    "distilled, quick_gelu": PLAIN.with_options(distilled=True, act="quick_gelu"),
    "DeiT III, registers, silu": PLAIN.with_options(
        layer_scale=True, no_embed_class=True, reg_tokens=2, global_pool="avg", fc_norm=True, act="silu"
    ),
    "no class token, no classifier, relu, qk-norm": replace(PLAIN, num_classes=0).with_options(
        class_token=False, global_pool="max", act="relu", qk_norm=True
    ),
    "no positions, no biases": PLAIN.with_options(pos_embed=False, qkv_bias=False, proj_bias=False, pre_norm=True),
    "pooled by attention, rms norms": PLAIN.with_options(
        global_pool="map", pool_heads=2, pool_hidden=12, norm="rms", class_token=False
    ),
    "rotary positions": replace(
        PLAIN, family="eva", options=EvaOptions((4, 4), 0.5, rope="cat", rope_dim=4, rope_bands=(0,), key_bias=False)
    ),
    "gates, per_sample": PLAIN.with_stage(*GATED),
    "gates, per_batch, distilled": PLAIN.with_stage(GATED[-1]).with_options(distilled=True),
    "shifted windows": WINDOWS,
    "shifted windows, gates": WINDOWS.with_gates([("relu", "linear")] * WINDOWS.depth),
    "performers": NAMES["t2t_vit_14"](**T2T),
    "attention among overlapping patches": NAMES["t2t_vit_t_14"](**T2T),
    "convolutions, then attention": UNIFORMERS["uniformer_small_plus"](**UNIFORMER),
    "patches, convolutions, then attention, gates": UNIFORMERS["uniformer_small"](**UNIFORMER).with_gates(
        [("relu", "linear")] * 4
    ),
}


@pytest.mark.slow
def test_the_list_is_what_export_writes_for_every_kind_of_network(tmp_path):
    """All are loaded and compute what they should, and no operator is on the list that none of them has."""
    found = set()
    for number, (name, spec) in enumerate(NETWORKS.items()):
        path, network = (
            tmp_path / f"{number}.pt2",
            network_of(spec, "per_batch" if "per_batch" in name else "per_sample"),
        )
        images = torch.randn(3, 1, *spec.img_size)
        write_pt2(network, (1, *spec.img_size), path)
        found |= operators_in(path)
        with torch.no_grad():
            torch.testing.assert_close(
                Pt2Network(path)(images), network(images), msg=lambda text, at=name: f"{at}: {text}"
            )
    assert set(ACTIVATIONS.values()) == {spec.options.act for spec in NETWORKS.values()}
    assert found == OPERATORS


def test_pickles_beside_the_graph(pt2, tmp_path, mark, intruder):
    torch.save(intruder(mark), tmp_path / "pickle")
    pickled = (tmp_path / "pickle").read_bytes()
    inputs = lambda name, content: pickled if name.endswith("sample_inputs/model.pt") else content  # noqa: E731
    extra = {"serialized_state_dict.pt": pickled}
    for path in (
        changed(pt2, tmp_path / "inputs.pt2", inputs),
        changed(pt2, tmp_path / "extra.pt2", lambda _, content: content, extra),
    ):
        with pytest.raises(UserError, match="not loaded: it holds"):
            Pt2Network(path)
    (tmp_path / "pickle").rename(tmp_path / "pickle.pt2")
    with pytest.raises(UserError, match=r"not loaded: it holds 'pickle/data\.pkl'"):
        Pt2Network(tmp_path / "pickle.pt2")
