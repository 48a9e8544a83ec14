"""Reading a `.pt2` file of `torch.export` without unpickling or evaluating anything in it.

`torch.export.load` unpickles what a file marks as pickled, evaluates its expressions of sizes, compiles its guards and
writes its names into source code; it is not for files of strangers. So torch is given a copy of the archive instead, of
those parts that `vitc export` writes, after every word in them has been compared with what a plain network needs.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.files.archives import refuse_swelling

ENTRY = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|models/model\.json|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|"
    r"data/sample_inputs/model\.pt)"
)
WORD = re.compile(r"[\w.+-]*", re.ASCII)  # names of tensors and weights, of devices and versions
ATEN = (  # operators of all networks that `vitc export` writes, and no others
    "conv2d.default", "linear.default", "layer_norm.default", "batch_norm.default", "dropout.default",
    "scaled_dot_product_attention.default", "gelu.default", "relu.default", "silu.default", "sigmoid.default",
    "add.Tensor", "mul.Tensor", "div.Tensor", "mean.dim", "sum.dim_IntList", "amax.default", "argmax.default",
    "any.default", "cat.default", "split_with_sizes.default", "select.int", "slice.Tensor", "index_select.default",
    "pad.default", "expand.default", "expand_as.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
    "neg.default", "stack.default", "unbind.int", "permute.default", "reshape.default", "rms_norm.default",
    "view.default", "transpose.int", "clone.default", "to.dtype", "sym_size.int", "_assert_tensor_metadata.default",
    "im2col.default", "matmul.default", "exp.default", "squeeze.dim", "roll.default",
)  # fmt: skip
OPERATORS = {f"torch.ops.aten.{name}" for name in ATEN} | {"torch.ops.higher_order.cond"}
SYMBOL = r"Symbol\('[su]\d+'(, (positive|integer|nonnegative)=True)*\)"  # images, or so many windows of each
SIZE = re.compile(rf"{SYMBOL}|Mul\(Integer\(\d+\), {SYMBOL}\)|[su]?\d+", re.ASCII)
OBJECTS = {"as_operator", "as_custom_obj"}  # arguments that torch looks up by a name: a function, a class
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", None)


def plain_archive(path: Path) -> io.BytesIO:
    """A copy of the archive that holds numbers, names and operators of torch, and nothing to run.

    Raises:
        UserError: where the file holds anything else, or is damaged.
    """
    refuse_swelling(path)
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as plain:
            for name in archive.namelist():
                plain.writestr(name, _checked(name, archive.read(name)))
    except _StrangeError as found:
        raise UserError(f"{path}: not loaded: {found}, which a file of 'vitc export' never holds") from None
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, RecursionError, NotImplementedError):
        raise UserError(f"{path}: torch cannot read it (it is damaged)") from None
    copy.seek(0)
    return copy


class _StrangeError(Exception):
    """What is in the file and must not be."""


def _checked(name: str, content: bytes) -> bytes:
    """The content of an entry, as it may be loaded."""
    if not ENTRY.fullmatch(name):
        raise _StrangeError(f"it holds {name!r}")
    if name.endswith("sample_inputs/model.pt") and content:
        raise _StrangeError("it holds pickled inputs")
    if not name.endswith(".json"):
        return content
    return json.dumps(_walked("", json.loads(content))).encode()


def _walked(key: str, value: Any) -> Any:
    """The same value without the notes on where nodes came from."""
    if isinstance(value, dict):
        if found := OBJECTS & value.keys():
            raise _StrangeError(f"it holds an argument of the kind {min(found)!r}")
        return {_word(name): {} if name == "metadata" else _walked(name, item) for name, item in value.items()}
    if isinstance(value, list):
        if key == "guards_code" and value:
            raise _StrangeError("it holds guards, which are source code")
        return [_walked(key, item) for item in value]
    if isinstance(value, str):
        return _text(key, value)
    if key == "use_pickle" and value is not False:
        raise _StrangeError("it holds a pickled tensor")
    return value


def _text(key: str, text: str) -> str:
    if key in ("in_spec", "out_spec"):
        _containers(json.loads(text))
    elif key == "expr_str":
        _must_match(SIZE, text)
    elif key == "target":
        if text not in OPERATORS:
            raise _StrangeError(f"it holds the operator {text[:60]!r}")
    else:
        _word(text)
    return text


def _containers(spec: Any) -> None:
    """A description of nested arguments: of built-in kinds, with words as their keys."""
    if isinstance(spec, dict):
        if spec.get("type") not in CONTAINERS:
            raise _StrangeError(f"it holds arguments of type {spec.get('type')!r}")
        spec = [value for key, value in spec.items() if key != "type"]
    if isinstance(spec, list):
        for item in spec:
            _containers(item)
    elif isinstance(spec, str) and not WORD.fullmatch(spec):
        _containers(json.loads(spec))


def _word(text: str) -> str:
    _must_match(WORD, text)
    return text


def _must_match(pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(text):
        raise _StrangeError(f"it holds {text[:60]!r}")
