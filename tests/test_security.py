"""Files and words of strangers run nothing here: each is refused in one line, and the mark it would leave is not there.

Where the library reads something that could run code, and why it does not:

- `torch.load`: in `training/checkpoints.py` alone, and in Lightning's `fit`, always with `weights_only=True`: tensors
  and primitives. timm's own downloads are loaded the same way, as safetensors where the hub has them.
- `torch.export.load`: in `export/deployed.py`, of a copy of the archive that `export/pt2_archive.py` has compared word
  by word; on its own it unpickles, evaluates expressions and compiles source code.
- `pickle`: in `training/checkpoints.py` for the name of an error; in `data/cifar.py` an unpickler that knows arrays and
  nothing else, for the Python version of CIFAR (see `data/test_files.py`).
- `yaml.load`: in `config/yaml_text.py`, by a SafeLoader that refuses every tag.
- `exec` and `import_module`: in `registry.py`, `cli.py` and `__init__.py`, of the library's own files, by names that
  are looked up in a list of them first.
- `subprocess`: `sbatch`, `scontrol` and `git`, without a shell; words of users in batch scripts are quoted, but
  for `slurm.setup`, whose lines are a shell's by intention.
- `onnxruntime` reads ONNX files, which are graphs of its own operators; `safetensors` holds numbers alone.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_vitc
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.weights.files import read_weights

PACKAGE = Path(lightning_vitc.__file__).parent
SOURCES = [*PACKAGE.rglob("*.py"), *(PACKAGE / "callbacks").resolve().rglob("*.py")]  # a link, which is not followed


@pytest.fixture
def intrude(mark, intruder) -> Callable[[Path], None]:
    """Put a malicious file in the place of another one."""

    def write(path: Path) -> None:
        torch.save({"state_dict": {"weight": torch.ones(1)}, "global_step": 1, "args": intruder(mark)}, path)

    return write


def assert_refused(done: Any, path: str) -> None:
    assert (done.code, done.error.count("\n")) == (2, 1), done.error
    assert path in done.error
    assert "never loaded" in done.error or "safetensors" in done.error


def test_the_file_is_malicious(tmp_path, intruder):
    """Or the tests below would show nothing."""
    torch.save(intruder(tmp_path / "it_ran"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "it_ran").exists()


# Checkpoints


@pytest.fixture
def run(finished, vitc) -> Path:
    """A finished run of the test's own."""
    shutil.copytree(finished.parents[2] / "runs", vitc.place / "runs")
    return vitc.place / "runs" / "scala_digits" / "default"


def test_the_checkpoint_that_a_run_continues_from(run, vitc, tiny, intrude):
    (run / "result.json").unlink()
    (run / "checkpoints" / "scala" / "done.json").unlink()
    intrude(run / "checkpoints" / "scala" / "last.ckpt")
    assert_refused(vitc("train", "scala_digits", *tiny), "checkpoints/scala/last.ckpt")


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_the_checkpoint_of_a_finished_run(run, vitc, intrude, command):
    """Of a version that stored no networks, or whose networks are damaged."""
    shutil.rmtree(run / "networks")
    intrude(run / "checkpoints" / "scala" / "best.ckpt")
    out = ["--out", "exports/x"] if command == "export" else []
    assert_refused(vitc(command, "runs/scala_digits/default", *out), "checkpoints/scala/best.ckpt")


def test_the_teacher_of_another_run(run, vitc, tiny, intrude):
    intrude(run / "checkpoints" / "dense" / "best.ckpt")
    teacher = ("teacher.train=false", f"teacher.run={run}", "run_name=pupil")
    assert_refused(vitc("train", "scala_digits", *tiny, *teacher), "checkpoints/dense/best.ckpt")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_pretrained_weights(vitc, tiny, intrude, name):
    intrude(vitc.place / name)
    assert_refused(vitc("train", "scala_digits", *tiny, f"model.pretrained={name}"), name)
    teacher = ("teacher.train=false", "teacher.model=deit_tiny_patch16_224", f"teacher.pretrained={name}")
    assert_refused(vitc("train", "scala_digits", *tiny, *teacher), name)


STRANGE = {
    "a sparse tensor": lambda weight: weight.to_sparse(),
    "a tensor without numbers": lambda weight: weight.to("meta"),
    "quantized": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.quint8),
    "of torch.complex64": lambda weight: weight.to(torch.complex64),
    "of torch.int64": lambda weight: weight.long(),
    r"\[\], the model's is": lambda weight: weight.sum(),
}
SHAPE = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=24, depth=1, num_heads=6, num_classes=10)


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights(tmp_path, what):
    path, weights = tmp_path / "weights.pth", create_backbone("vit_tiny_patch16_224", **SHAPE).state_dict()
    torch.save(weights | {"head.weight": STRANGE[what](weights["head.weight"])}, path)
    with pytest.raises(UserError, match=rf"^{path}: (not a checkpoint of this model: )?head\.weight is {what}"):
        create_backbone("vit_tiny_patch16_224", pretrained=str(path), **SHAPE)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")
def test_dictionaries_that_hold_themselves_and_names_that_are_none(tmp_path):
    content: dict[Any, Any] = {}
    content["model"] = content["state_dict"] = content
    torch.save(content, tmp_path / "itself.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "itself.pth")
    torch.save({1: torch.ones(1)}, tmp_path / "number.pth")
    with pytest.raises(UserError, match="1 is no name of a weight"):
        read_weights(tmp_path / "number.pth")


# Exports


def forge(directory: Path, name: str) -> None:
    """Make `arch.json` say that the file as it is now belongs to the export."""
    arch = opened((directory / "arch.json").read_bytes())
    arch["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    (directory / "arch.json").write_text(json.dumps(arch))


def test_the_weights_of_an_exported_directory(run, vitc, intrude):
    assert vitc("export", str(run), "--out", "exports/x").code == 0
    for file in (vitc.place / "exports" / "x").rglob("model.safetensors"):
        intrude(file)
        forge(file.parent, file.name)
        assert_refused(vitc("evaluate", str(file.parent)), "model.safetensors")
        with pytest.raises(UserError, match="not a readable safetensors file"):
            lightning_vitc.load(file.parent)


# Words


YAML = "!!python/object/apply:os.system ['touch it_ran']"


def test_tags_in_an_experiment_a_run_and_an_argument(run, vitc, mark):
    (vitc.place / "bad.yaml").write_text(f"base: [digits]\nseed: {YAML}\n")
    (run / "config.yaml").write_text(f"seed: {YAML}\n")
    for arguments in (["train", "./bad.yaml"], ["evaluate", str(run)], ["train", "scala_digits", f"seed={YAML}"]):
        done = vitc(*arguments)
        assert (done.code, done.error.count("\n")) == (2, 1), done.error
        assert "the tag !!python/object/apply:os.system is not allowed" in done.error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.name=os.system", "optimizer.name: 'os.system' cannot be built by timm.optim"),
        ("optimizer.name=torch.optim.SGD", "optimizer.name: 'torch.optim.SGD' cannot be built by timm.optim"),
        ("method.name=os", "method.name: "),
        ("method.name=../cli", "method.name: "),
        ("callbacks.os.system=1", "callbacks.os: "),
        ("callbacks.step_seed.seed=1", "callbacks.step_seed: "),  # ours, but none that an experiment may set
        ("model.name=torch.nn.Linear", "model.name: "),
        ("data.name=os", "data.name: "),
        ("run_name=${oc.env:HOME}", "run_name: "),
        ("trainer.strategy=os.system", "trainer.strategy: "),
    ],
)
def test_names_are_those_of_lists(vitc, tiny, override, message):
    done = vitc("train", "scala_digits", *tiny, override)
    assert (done.code, done.error.count("\n")) == (2, 1), done.error
    assert done.error.startswith(f"error: {message}")
    assert not (vitc.place / "runs").exists()


@pytest.mark.slow
def test_a_page_shows_words_as_words(run, vitc):
    name = "<script>alert(1)<script>"
    shutil.copytree(run, run.with_name(name))
    result = run.with_name(name) / "result.json"
    result.write_text(json.dumps(opened(result.read_bytes())).replace("scala_digits", f"{name}&"))
    done = vitc("report", str(run.with_name(name)), str(run), "--out", "reports/x")
    assert done.code == 0, done.error
    page = (vitc.place / "reports" / "x" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in page


# The hub


class BreaksOff(BaseHTTPRequestHandler):
    """A hub that sends less than half of the weights."""

    def do_HEAD(self) -> bool:
        weights = self.path.endswith("/model.safetensors")
        self.send_response(200 if weights else 404)
        headers = {"Content-Length": "100000" if weights else "0", "ETag": f'"{"a" * 64}"', "X-Repo-Commit": "b" * 40}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        return weights

    def do_GET(self) -> None:
        if self.do_HEAD():
            self.wfile.write(b"x" * 40_000)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_nothing(vitc, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
           "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}  # fmt: skip
    network = ("vit_tiny_patch16_224", "img_size=32", "embed_dim=192", "patch_size=16", "depth=12", "num_heads=3")
    command = [vitc.executable, "train", "dense_digits", "model.pretrained=true", f"model.name={network[0]}",
               *(f"model.{key}" for key in network[1:])]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | hub, capture_output=True, text=True, check=False)
    server.shutdown()
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: model.pretrained: the weights of vit_tiny_patch16_224 cannot be fetched (")
    assert "Traceback" not in done.stderr
    assert not [file for file in (tmp_path / "runs").rglob("*") if file.is_file() and file.name != ".lock"]
    assert not list((tmp_path / "cache").rglob("model.safetensors")), "what is half is not taken for whole"


# The source


DANGEROUS = {
    "eval": set(),
    "exec": {"registry.py"},
    "compile": {"registry.py"},
    "pickle.load": set(),
    "pickle.loads": set(),
    "torch.load": {"checkpoint.py"},
    "torch.export.load": {"deployed.py"},
    "yaml.load": {"yaml_text.py"},
    "np.load": set(),
    "os.system": set(),
    "torch.hub.load": set(),
}


def calls(source: Path) -> set[tuple[str, str]]:
    """(function, arguments) of every call by its dotted name."""
    nodes = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    return {(ast.unparse(node.func), ast.unparse(node).partition("(")[2]) for node in nodes}


def test_the_sources_call_nothing_else_that_runs_code():
    found: dict[str, set[str]] = {name: set() for name in DANGEROUS}
    for source in SOURCES:
        for name, arguments in calls(source):
            if name in found:
                found[name].add(source.name)
            if name == "torch.load":
                assert "weights_only=True" in arguments
            assert "shell=True" not in arguments
            assert "weights_only=False" not in arguments or name == "trainer.save_checkpoint", source
    assert found == DANGEROUS
    assert {"checkpoint.py", "registry.py"} <= {source.name for source in SOURCES}
