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
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_vitc
from lightning_vitc.backbone import create_backbone
from lightning_vitc.compact import compact
from lightning_vitc.errors import UserError
from lightning_vitc.export.deployed import Pt2Network
from lightning_vitc.export.write_formats import write_pt2

PACKAGE = Path(lightning_vitc.__file__).parent
SOURCES = [*PACKAGE.rglob("*.py"), *(PACKAGE / "callbacks").resolve().rglob("*.py")]  # a link, which is not followed


class Intruder:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """What an intruder would leave; it must not be there in the end."""
    path = tmp_path / "it_ran"
    yield path
    assert not path.exists(), "code of a stranger was run"


@pytest.fixture
def intrude(mark) -> Callable[[Path], None]:
    """Put a malicious file in the place of another one."""

    def write(path: Path) -> None:
        torch.save({"state_dict": {"weight": torch.ones(1)}, "global_step": 1, "args": Intruder(mark)}, path)

    return write


def assert_refused(done: Any, path: str) -> None:
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1), done.error
    assert path in done.error
    assert "never loaded" in done.error or "safetensors" in done.error


def test_the_file_is_malicious(tmp_path):
    """Or the tests below would show nothing."""
    torch.save(Intruder(tmp_path / "it_ran"), tmp_path / "file")
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


# Exports


def forge(directory: Path, name: str) -> None:
    """Make `arch.json` say that the file as it is now belongs to the export."""
    arch = json.loads((directory / "arch.json").read_text())
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


@pytest.fixture(scope="module")
def pt2(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=24, depth=1,
                              num_heads=6, num_classes=10)  # fmt: skip
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    write_pt2(compact(network, None), (1, 8, 8), path)
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
    "an operator": (in_json(GRAPH, '"torch.ops.aten.linear.default"', '"_operator.methodcaller"'), "methodcaller"),
    "an operator of files": (in_json(GRAPH, '"torch.ops.aten.linear.default"', '"torch.ops.aten.from_file.default"'),
                             "from_file"),
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


def test_pickles_beside_the_graph(pt2, tmp_path, mark):
    torch.save(Intruder(mark), tmp_path / "pickle")
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
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1), done.error
    assert done.error.startswith(f"error: {message}")
    assert not (vitc.place / "runs").exists()


def test_a_page_shows_words_as_words(run, vitc):
    name = "<script>alert(1)<script>"
    shutil.copytree(run, run.with_name(name))
    result = run.with_name(name) / "result.json"
    result.write_text(result.read_text().replace("scala_digits", f"{name}&"))
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
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
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
    "torch.load": {"checkpoints.py"},
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
