import json
import os
import shutil
import stat
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

import lightning_vitc
from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.errors import UserError
from lightning_vitc.files import directory_swap
from lightning_vitc.files.records import opened
from lightning_vitc.networks.backbone import from_timm
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.plain.network import build, initialize
from lightning_vitc.networks.families.plain.shape import vit_block
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
FACTS = {
    "method": "scala",
    "budget": None,
    "accuracy": {"top1": 71.25, "top5": 99.5},
    "preprocessing": {"mean": [0.5, 0.5, 0.5]},
    "provenance": {"seed": 0},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model() -> VisionTransformer:
    full = from_timm(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    return compact(full, slice_width(full.spec, Fraction(1, 2)))


@pytest.fixture
def saved(model, tmp_path) -> Path:
    artifact.save(model, tmp_path / "model", FACTS)
    return tmp_path / "model"


def logits(model: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(2, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(x)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is written


def test_the_directory(model, saved):
    assert names(saved) == ["README.md", "arch.json", "model.safetensors"]
    document = opened((saved / "arch.json").read_bytes())
    assert document.pop("format") == 2
    assert ArchSpec.from_dict(document.pop("architecture")) == ArchSpec.of(model)
    assert document.pop("files").keys() == {"model.safetensors"}
    assert document == FACTS
    assert names(saved.parent) == ["model"]


def test_the_weights_are_plain_safetensors_under_timms_names(model, saved):
    weights = load_file(saved / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in weights.items())


def test_the_names_of_the_classes(model, tmp_path):
    classes = ["cat", "dog", "5²", "a|b", "\udcff"]
    artifact.save(model, tmp_path / "named", {**FACTS, "classes": classes})
    assert artifact.load(tmp_path / "named").classes == tuple(classes)
    assert "| classes | 5: cat, dog, 5², a\\|b, ? |" in (tmp_path / "named" / "README.md").read_text()
    document = opened((tmp_path / "named" / "arch.json").read_bytes())
    (tmp_path / "named" / "arch.json").write_text(json.dumps({**document, "classes": classes[::-1]}))
    again = "export the model again"
    assert refusal(tmp_path / "named" / "arch.json") == (
        f"not the architecture that model.safetensors was written for; {again}"
    )


@pytest.mark.parametrize(
    ("facts", "turned"),
    [
        ({"preprocessing": {"crop_pct": 0.9, "exif": True}}, True),
        ({"preprocessing": {"crop_pct": 0.9, "exif": False}, "experiment": {"data": {"exif": True}}}, False),
        ({"preprocessing": {"crop_pct": 0.9}}, False),  # of earlier versions
        ({"preprocessing": {"crop_pct": 0.9}, "experiment": {"data": {"exif": True}}}, True),
    ],
)
def test_whether_images_are_turned_as_exif_says(model, tmp_path, facts, turned):
    artifact.save(model, tmp_path / "out", facts)
    assert artifact.load(tmp_path / "out").preprocessing == {"crop_pct": 0.9, "exif": turned}
    said = "| orientation | as EXIF says |" in (tmp_path / "out" / "README.md").read_text()
    assert said == facts["preprocessing"].get("exif", False)


@pytest.mark.parametrize("classes", [["cat"], [1, 2, 3, 4, 5], "abcde", {"a": 1}])
def test_names_that_are_none(saved, classes):
    document = opened((saved / "arch.json").read_bytes())
    (saved / "arch.json").write_text(json.dumps({**document, "classes": classes}))
    assert "classes" in refusal(saved / "arch.json") or "architecture" in refusal(saved / "arch.json")


def test_an_export_without_names(saved):
    assert artifact.load(saved).classes is None


def test_the_card_shows_what_the_model_is(saved):
    card = (saved / "README.md").read_text()
    for shown in ("# Compressed deit_tiny_distilled_patch16_224 (scala)\n", "| top1 | 71.25 % |", "3 x 32 x 32",
                  "| made of | 3 blocks, embedding 24 |",
                  "| classes | 5 |", "lightning_vitc.load"):  # fmt: skip
        assert shown in card


@pytest.mark.parametrize("name", ["apache-2.0", "ours: research only", "'#"])
def test_the_block_that_hubs_read_is_yaml_whatever_the_license_is_called(model, tmp_path, name):
    artifact.save(model, tmp_path / "out", {"license": name, "method": "uvc"})
    block = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(block)["license"] == name
    assert yaml.safe_load(block)["tags"] == ["vision-transformer", "model-compression", "uvc"]


def test_the_card_names_the_width_and_the_budget(model, tmp_path):
    facts = {"budget": {"width": 0.5, "macs": "50%", "convention": "full", "target_macs": 9}}
    artifact.save(model, tmp_path / "out", facts)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| width | 0.5 |\n| budget of macs | 50% |\n| MACs of one image" in card
    assert "params |" not in card
    assert "target" not in card
    facts = {"budget": {"latency_ms": 5, "device_name": "a CPU", "batch_size": 4, "threads": 2}}
    artifact.save(model, tmp_path / "out", facts)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| budget of latency_ms | 5 |\n| latency: device name | a CPU |\n| latency: batch size | 4 |" in card


def test_the_card_of_a_dense_network_does_not_call_it_compressed(model, tmp_path):
    artifact.save(model, tmp_path / "out", {"method": "dense"})
    assert "\n# deit_tiny_distilled_patch16_224, dense\n" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_does_without_an_accuracy(model, tmp_path):
    artifact.save(model, tmp_path / "bare", {})
    assert "parameters" in (tmp_path / "bare" / "README.md").read_text()


def test_others_may_read_what_the_umask_lets_them(model, tmp_path):
    before = os.umask(0o022)
    try:
        artifact.save(model, tmp_path / "model", FACTS)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes == {"README.md": 0o644, "arch.json": 0o644, "model.safetensors": 0o644}
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755


# What is read back


def test_the_loaded_model_computes_the_same(model, saved):
    for loaded in (artifact.load(saved), artifact.load(str(saved)), lightning_vitc.load(saved)):
        assert not loaded.training
        assert ArchSpec.of(loaded) == ArchSpec.of(model)
        assert torch.equal(logits(loaded), logits(model))
        assert not any(parameter.is_meta for parameter in loaded.parameters())


BLOCKS = {
    "ragged": vit_block(attention(12, (3, 12, 1)), 20),
    "no attention": vit_block(None, 20),
    "no mlp": vit_block(attention(12, (12, 12)), None),
    "no hidden unit": vit_block(attention(12, (12, 12)), 0),
    "neither": vit_block(None, None),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("biased", [True, False])
def test_every_kind_of_block_is_written_and_read(tmp_path, block, biased):
    spec = ArchSpec.of(timm.create_model("deit3_small_patch16_224", **SMALL)).with_stage(*[BLOCKS[block]] * 2)
    spec = spec.with_options(qkv_bias=biased, proj_bias=biased)
    model = build(spec).eval()
    initialize(model)
    artifact.save(model, tmp_path / "model", FACTS)
    loaded = artifact.load(tmp_path / "model")
    assert ArchSpec.of(loaded) == spec
    assert torch.equal(logits(loaded), logits(model))


def test_a_loaded_model_is_saved_and_trained_again(saved):
    loaded = artifact.load(saved)
    loaded.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    artifact.save(loaded, saved, FACTS)
    assert torch.equal(logits(artifact.load(saved)), logits(loaded.eval()))


# What was tampered with


def refusal(path: Path) -> str:
    """The one-line message, less the path of the file at fault that it starts with."""
    with pytest.raises(UserError) as caught:
        artifact.load(path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def change_weights(saved: Path, **changes) -> Path:
    path = saved / "model.safetensors"
    weights = load_file(path) | {name.replace("__", "."): weight for name, weight in changes.items()}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, path)
    return path


def test_weights_that_do_not_belong_to_the_architecture(saved):
    ours = "not a checkpoint of this model: "
    original = (saved / "model.safetensors").read_bytes()
    path = change_weights(saved, head__weight=torch.ones(5, 3))
    assert refusal(path) == f"{ours}head.weight is [5, 3], the model's is [5, 24]"
    path.write_bytes(original)
    change_weights(saved, norm__bias=None)
    assert refusal(path) == f"{ours}norm.bias is missing"
    path.write_bytes(original)
    change_weights(saved, extra=torch.ones(1))
    assert refusal(path) == f"{ours}it has extra, which the model lacks"
    path.write_bytes(original[:-1])
    assert refusal(path).startswith("not a readable safetensors file")
    path.unlink()
    assert refusal(path) == "no such file; half of an export; export the model again"


def test_a_directory_without_a_model(saved):
    (saved / "arch.json").unlink()
    assert refusal(saved / "arch.json") == "no such file; half of an export; export the model again"
    (saved / "model.safetensors").unlink()
    assert refusal(saved / "arch.json") == "no such file; expected a directory written by 'vitc export'"
    (saved / "config.json").write_text("{}")
    assert refusal(saved / "arch.json") == f"no such file; for a folder of timm write local-dir:{saved}"
    nowhere = saved / "nowhere"
    assert refusal(nowhere / "arch.json") == "no such file; expected a directory written by 'vitc export'"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"', "{}", '{"format": 1}', '{"architecture": {}}',
                                  '{"format": 1, "architecture": 3}', "\x00"])  # fmt: skip
def test_a_damaged_description(saved, text):
    (saved / "arch.json").write_text(text)
    assert refusal(saved / "arch.json") == "damaged; export the model again"


def test_a_description_in_bytes_that_are_no_text(saved):
    (saved / "arch.json").write_bytes(b"\xff\xfe\x00")
    assert refusal(saved / "arch.json") == "damaged; export the model again"


def change_arch(saved: Path, **changes) -> None:
    document = opened((saved / "arch.json").read_bytes())
    document["architecture"] |= changes
    (saved / "arch.json").write_text(json.dumps(document))


def options(**changes) -> dict[str, Any]:
    return {"options": {"patch_size": [8, 8], "scale": 0.25} | changes}


def one_branch(**values) -> dict[str, Any]:
    return {"stages": [{"width": 48, "blocks": [{"branches": [values, None]}]}]}


@pytest.mark.parametrize("later", [3, "1", None])
def test_another_format(saved, later):
    document = opened((saved / "arch.json").read_bytes()) | {"format": later}
    (saved / "arch.json").write_text(json.dumps(document))
    assert refusal(saved / "arch.json") == f"format {later} is not known to this version, which reads 1 and 2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": "wide"}, "architecture: num_classes: 'wide' is not a whole number >= 0"),
        ({"colour": "red"}, "architecture: "),
        ({"stages": [{"width": 48}]}, "architecture: 'blocks'; expected the fields of ArchSpec"),
        (options(act="bogus"), "no such network can be built (KeyError: 'bogus')"),
        (options(global_pool="bogus"), "no such network can be built (AssertionError: "),
        (one_branch(kind="attention", pieces=[4], query=-3), "architecture: query: -3 is not a whole number >= 0"),
        (one_branch(kind="attention", pieces=[], query=3), "no such network can be built ("),
    ],
)
def test_a_description_of_no_network(saved, changes, message):
    change_arch(saved, **changes)
    assert refusal(saved / "arch.json").startswith(message)


def test_a_description_of_another_network(saved):
    change_arch(saved, num_classes=6)
    message = "not a checkpoint of this model: head.weight is [5, 24], the model's is [6, 24]"
    assert refusal(saved / "model.safetensors") == message


def test_weights_of_the_same_shape_from_another_export(model, saved, tmp_path):
    other = build(ArchSpec.of(model)).eval()
    initialize(other)
    artifact.save(other, tmp_path / "other", FACTS)
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    again = "export the model again"
    assert refusal(saved / "model.safetensors") == f"not the file that arch.json describes; {again}"


def test_the_same_weights_are_the_same_bytes(model, tmp_path):
    """Runs are compared by them; of twelve headers in any order not all would be alike."""
    for number in range(12):
        artifact.save(model, tmp_path / str(number), FACTS)
    assert len({(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(12)}) == 1


def test_an_architecture_that_was_changed_where_no_shape_shows_it(saved):
    document = opened((saved / "arch.json").read_bytes())
    document["architecture"]["options"]["scale"] = 0.5
    (saved / "arch.json").write_text(json.dumps(document))
    again = "export the model again"
    assert refusal(saved / "arch.json") == f"not the architecture that model.safetensors was written for; {again}"


def test_a_file_of_another_format_is_checked_too(model, tmp_path):
    def complete(folder):
        (folder / "model.onnx").write_bytes(b"graph")
        return {}

    artifact.save(model, tmp_path / "model", FACTS, complete)
    assert artifact.check(tmp_path / "model", "model.onnx").read_bytes() == b"graph"
    (tmp_path / "model" / "model.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match=r"model\.onnx: not the file that arch\.json describes; "):
        artifact.check(tmp_path / "model", "model.onnx")
    with pytest.raises(UserError, match=r"model\.pt2: no such file; .* was exported as safetensors, onnx$"):
        artifact.check(tmp_path / "model", "model.pt2")


def test_several_models_in_one_directory(model, tmp_path):
    artifact.save_several({"a": (model, FACTS, None), "b": (compact(model, None), FACTS, None)}, tmp_path / "both")
    assert names(tmp_path / "both") == ["a", "b", "models.json"]
    assert torch.equal(logits(artifact.load(tmp_path / "both" / "b")), logits(model))
    with pytest.raises(UserError, match=r"both: holds several models; name one of its folders: a, b$"):
        artifact.load(tmp_path / "both")
    artifact.save(model, tmp_path / "both", FACTS)
    assert "models.json" not in names(tmp_path / "both")


@pytest.mark.parametrize("section", arch_json.SECTIONS)
def test_a_damaged_section(saved, section):
    document = opened((saved / "arch.json").read_bytes()) | {section: ["not", "a section"]}
    (saved / "arch.json").write_text(json.dumps(document))
    assert refusal(saved / "arch.json") == "damaged; export the model again"


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"models": 3}'])
def test_a_damaged_list_of_models(model, tmp_path, text):
    artifact.save_several({"a": (model, FACTS, None), "b": (model, FACTS, None)}, tmp_path / "both")
    (tmp_path / "both" / "models.json").write_text(text)
    for read in (artifact.load, arch_json.models_in):
        with pytest.raises(UserError, match=r"both/models\.json: damaged; export the model again$"):
            read(tmp_path / "both")


# Replacing


def test_an_earlier_export_is_replaced(model, saved):
    (saved / "model.onnx").write_text("of the earlier model")
    artifact.save(compact(model, None), saved, FACTS | {"method": "uvc"})
    assert names(saved) == ["README.md", "arch.json", "model.safetensors"]
    assert arch_json.read_arch(saved)["method"] == "uvc"
    assert names(saved.parent) == ["model"]


def test_parents_are_made_and_an_empty_directory_is_taken(model, tmp_path):
    artifact.save(model, tmp_path / "a" / "b", FACTS)
    (tmp_path / "empty").mkdir()
    artifact.save(model, tmp_path / "empty", FACTS)
    assert names(tmp_path / "a" / "b") == names(tmp_path / "empty")


def test_a_link_stays_a_link(model, saved):
    link = saved.parent / "latest"
    link.symlink_to(saved)
    artifact.save(model, link, FACTS | {"method": "uvc"})
    assert link.is_symlink()
    assert arch_json.read_arch(saved)["method"] == "uvc"
    assert names(saved.parent) == ["latest", "model"]


def test_relative_paths(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact.save(model, "here", FACTS)
    assert torch.equal(logits(artifact.load("here")), logits(model))


def test_something_else_is_not_overwritten(model, tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError) as caught:
        artifact.save(model, foreign, FACTS)
    assert str(caught.value) == f"--out: {foreign} is not empty and no exported model; name another directory"
    assert names(foreign) == ["chapter.tex"]
    with pytest.raises(UserError) as caught:
        artifact.save(model, foreign / "chapter.tex", FACTS)
    assert str(caught.value) == f"--out: {foreign / 'chapter.tex'} is a file; name a directory"
    assert names(tmp_path) == ["thesis"]


def test_a_place_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        artifact.save(model, tmp_path / "file" / "model", FACTS)
    assert str(caught.value) == f"--out: {tmp_path / 'file' / 'model'} cannot be written (Not a directory)"


@pytest.mark.parametrize("step", ["write_text", "write_bytes", "fsync", "rename"])
def test_a_failing_write_leaves_the_old_model(model, saved, monkeypatch, step):
    """A full disk at any point: in the text files, the weights, their sync, or the last rename."""

    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    def no_space_for_the_new_one(path, target):
        if path.suffix == ".tmp":
            no_space()
        return rename(path, target)

    rename, before = Path.rename, logits(artifact.load(saved))
    other = build(ArchSpec.of(model)).eval()
    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", no_space)
        else:
            patch.setattr(Path, step, no_space_for_the_new_one if step == "rename" else no_space)
            patch.setattr(directory_swap, "_exchange", lambda *_: False)
        with pytest.raises(UserError) as caught:
            artifact.save(other, saved, FACTS)
    assert str(caught.value) == f"--out: {saved} cannot be written (No space left on device)"
    assert torch.equal(logits(artifact.load(saved)), before)
    assert names(saved.parent) == ["model"]


def test_a_killed_export_leaves_the_old_model_and_the_next_one_works(model, saved):
    left = saved.parent / f".model.{os.getpid() + 1}.tmp"
    shutil.copytree(saved, left)
    (left / "model.safetensors").write_bytes(b"half")
    artifact.save(model, saved, FACTS)
    assert torch.equal(logits(artifact.load(saved)), logits(model))
