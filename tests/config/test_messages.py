"""Every mistake has one line; the lines here are exact."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.schema import Experiment, SlurmConfig

MISSING = "missing; set it in the experiment or on the command line"
BATCHES = "a number of batches (an integer >= 0) or a fraction in [0, 1]"
SOME_BATCHES = "a number of batches (an integer > 0) or a fraction in (0, 1]"
WEIGHTS = "true, false or the path of a .safetensors, .pth, .pth.tar, .pt, .ckpt or .bin file, or of its folder"
DEVICES = 'a number > 0, "auto", a list of device numbers or a string like "0,1"'
TOP_LEVEL = ", ".join(field.name for field in fields(Experiment) if field.name != "method_name")
SLURM = ", ".join(field.name for field in fields(SlurmConfig))

UNKNOWN_KEYS = {
    "lr=1": "lr: unknown key; did you mean 'optimizer.lr'?",
    "wd=1": "wd: unknown key; did you mean 'optimizer.weight_decay'?",
    "epochs=1": "epochs: unknown key; did you mean 'teacher.epochs' or 'trainer.max_epochs'?",
    "optimzer.lr=1": "optimzer: unknown key; did you mean 'optimizer'?",
    "method_name=x": "method_name: unknown key; did you mean 'method'?",
    "zzz=1": f"zzz: unknown key; the top-level keys are {TOP_LEVEL}",
    "model.image_size=8": "model.image_size: unknown key; did you mean 'model.img_size'?",
    "data.batchsize=8": "data.batchsize: unknown key; did you mean 'data.batch_size'?",
    "optimizer.learning_rate=1": "optimizer.learning_rate: unknown key; did you mean 'optimizer.lr'?",
    "teacher.modle=x": "teacher.modle: unknown key; did you mean 'teacher.model'?",
    "teacher.foo=x": "teacher.foo: unknown key; the keys of 'teacher' are train, epochs, batch_size, mixup, "
    "cutmix, smoothing, lr, weight_decay, warmup_epochs, run, model, pretrained",
    "trainer.batch_size=8": "trainer.batch_size: unknown key; did you mean 'data.batch_size' or 'budget.batch_size'?",
    "trainer.epochs=8": "trainer.epochs: unknown key; did you mean 'trainer.max_epochs'?",
    "trainer.lr=8": "trainer.lr: unknown key; did you mean 'optimizer.lr'?",
    "slurm.hours=8": f"slurm.hours: unknown key; the keys of 'slurm' are {SLURM}",
    "method.slise=heads": "method.slise: unknown key; did you mean 'method.slice'?",
    "method.nam=x": "method.nam: unknown key; did you mean 'method.name'?",
    "callbacks.fode.decay=1": "callbacks.fode: unknown callback 'fode'; did you mean 'fade'? Known: fade",
    "callbacks.zzz=true": "callbacks.zzz: unknown callback 'zzz'; known: fade",
    "callbacks.fade.dekay=1": "callbacks.fade.dekay: unknown key; did you mean 'callbacks.fade.decay'?",
    "method.name=plane": "method.name: unknown method 'plane'; did you mean 'plain'? Known: plain, scaled",
    "method.name=zzz": "method.name: unknown method 'zzz'; known: plain, scaled",
    "method.name=3": "method.name: unknown method '3'; known: plain, scaled",
}
WRONG_TYPES = {
    "trainer.max_epochs='true'": "trainer.max_epochs: 'true' is not an integer",
    "trainer.max_epochs=true": "trainer.max_epochs: true is not an integer",
    "trainer.max_epochs=1.5": "trainer.max_epochs: 1.5 is not an integer",
    "trainer.log_every_n_steps=null": "trainer.log_every_n_steps: null is not an integer",
    "seed=": "seed: null is not an integer",
    "optimizer.lr=fast": "optimizer.lr: 'fast' is not a number",
    "optimizer.lr='0.1'": "optimizer.lr: '0.1' is not a number",
    "optimizer.lr=true": "optimizer.lr: true is not a number",
    "optimizer.lr=.nan": "optimizer.lr: nan is not a finite number",
    "optimizer.lr=1e999": "optimizer.lr: inf is not a finite number",
    "optimizer.lr={a: 1}": "optimizer.lr: a section of keys is not a number",
    "data.few_shot=1": "data.few_shot: 1 is not true or false",
    "data.root=[a]": "data.root: ['a'] is not a string",
    "description=1.5": "description: 1.5 is not a string",
    "data.scale=0.5": "data.scale: 0.5 is not a list of numbers",
    "data.scale=[0.5, b]": "data.scale[1]: 'b' is not a number",
    "data.scale=[0.5]": "data.scale: [0.5] is not a pair of ascending numbers > 0",
    "data.ratio=[1, 0.5]": "data.ratio: [1.0, 0.5] is not a pair of ascending numbers > 0",
    "data.mean=[0.5, 0.5]": "data.mean: [0.5, 0.5] has 2 numbers; it must have 3 or 1",
    "data.std=[0.5, 0, 1]": (
        "data.std: [0.5, 0, 1] is not a list of numbers from above 0 to 1, as pixels are scaled to 0..1 first"
    ),
    "data.mean=[123.675, 116.28, 103.53]": (
        "data.mean: [123.675, 116.28, 103.53] is not a list of numbers from 0 to 1, as pixels are scaled to 0..1 first"
    ),
    "data.std=[58.395]": (
        "data.std: [58.395] is not a list of numbers from above 0 to 1, as pixels are scaled to 0..1 first"
    ),
    "data.switch_prob=1.5": "data.switch_prob: 1.5 is out of range; it must be >= 0 and <= 1",
    "optimizer.betas=[0.9]": "optimizer.betas: [0.9] is not two numbers >= 0 and < 1",
    "optimizer.betas=[]": "optimizer.betas: [] is not two numbers >= 0 and < 1",
    "optimizer.betas=[0.9, 1]": "optimizer.betas: [0.9, 1] is not two numbers >= 0 and < 1",
    "slurm.setup=module load cuda": "slurm.setup: 'module load cuda' is not a list of strings of one line",
    "model.pretrained=3": f"model.pretrained: 3 is not {WEIGHTS}",
    "model.pretrained=a.onnx": f"model.pretrained: 'a.onnx' is not {WEIGHTS}",
    "teacher.pretrained=null": f"teacher.pretrained: null is not {WEIGHTS}",
    "trainer.devices=0": f"trainer.devices: 0 is not {DEVICES}",
    "trainer.devices=true": f"trainer.devices: true is not {DEVICES}",
    "trainer.devices=all": f"trainer.devices: 'all' is not {DEVICES}",
    "trainer.devices=[0, 0]": f"trainer.devices: [0, 0] is not {DEVICES}",
    "trainer.limit_val_batches=1.5": f"trainer.limit_val_batches: 1.5 is not {BATCHES}",
    "trainer.limit_val_batches=true": f"trainer.limit_val_batches: true is not {BATCHES}",
    "trainer.overfit_batches=-1": f"trainer.overfit_batches: -1 is not {BATCHES}",
    "trainer.val_check_interval=0": "trainer.val_check_interval: 0 is not a number of batches (an integer > 0) "
    "or a fraction in (0, 1]",
    "trainer.max_time=1h": "trainer.max_time: '1h' is not a time > 0 as DD:HH:MM:SS",
    "trainer.max_time='00:00:00:00'": "trainer.max_time: '00:00:00:00' is not a time > 0 as DD:HH:MM:SS",
    **{
        f'slurm.{key}="a\\n#SBATCH --x"': f"slurm.{key}: 'a\\n#SBATCH --x' is not text of one line without control "
        "characters"
        for key in ("account", "partition", "constraint", "mem")
    },
    "slurm.mem=' '": "slurm.mem: ' ' is not text of one line without control characters",
    'slurm.setup=["a\\u0000b"]': "slurm.setup: ['a\\x00b'] is not a list of strings of one line",
    "trainer.deterministic=yess": "trainer.deterministic: 'yess' is not true or false or 'warn'",
    "run_name=a/b": "run_name: 'a/b' is not a name without slashes and blanks, of at most 255 bytes",
    "run_name=''": "run_name: '' is not a name without slashes and blanks, of at most 255 bytes",
    "run_name='..'": "run_name: '..' is not a name without slashes and blanks, of at most 255 bytes",
    "method.widths=[0.5, x]": "method.widths[1]: 'x' is not a number",
    "model=deit": "model: 'deit' is not a section of keys; did you mean 'model.name=deit'?",
    "method=plain": "method: 'plain' is not a section of keys; did you mean 'method.name=plain'?",
    "teacher=[1]": "teacher: [1] is not a section of keys",
    "callbacks=fade": "callbacks: 'fade' is not a section of keys",
    "callbacks.fade=null": "callbacks.fade: null is not a section of keys, true (its defaults) or false (off)",
}
OUT_OF_RANGE = {
    "optimizer.lr=-1": "optimizer.lr: -1 is out of range; it must be > 0",
    "optimizer.lr=0.0": "optimizer.lr: 0.0 is out of range; it must be > 0",
    "data.smoothing=1": "data.smoothing: 1 is out of range; it must be >= 0 and < 1",
    "model.depth=0": "model.depth: 0 is out of range; it must be > 0",
    "callbacks.fade.decay=1": "callbacks.fade.decay: 1 is out of range; it must be > 0 and < 1",
    "trainer.max_steps=0": "trainer.max_steps: 0 is not a number of steps > 0, or -1 for no limit",
    "trainer.limit_train_batches=0": f"trainer.limit_train_batches: 0 is not {SOME_BATCHES}",
    "trainer.limit_train_batches=0.0": f"trainer.limit_train_batches: 0.0 is not {SOME_BATCHES}",
    "trainer.strategy=foo": "trainer.strategy: 'foo' is not one of auto, ddp",
    "seed=-1": "seed: -1 is out of range; it must be >= 0",
    "method.slice=perhead": "method.slice: 'perhead' is not one of per_head, per_qkv, official, heads; "
    "did you mean 'per_head'?",
    "model.global_pool=max": "model.global_pool: 'max' is not one of token, avg",
    "trainer.accelerator=cpus": "trainer.accelerator: 'cpus' is not one of auto, cpu, gpu, cuda, mps, tpu; "
    "did you mean 'cpu'?",
}
MISSING_VALUES = {
    "optimizer.lr=???": f"optimizer.lr: {MISSING}",
    "model.name=???": f"model.name: {MISSING}",
    "data.name=???": f"data.name: {MISSING}",
    "method.name=???": "method.name: missing; set it to one of plain, scaled",
    "trainer.max_epochs=null": "trainer.max_epochs: missing; set trainer.max_epochs or trainer.max_steps",
}
TOGETHER = {
    "model.embed_dim=10 model.num_heads=3": "model.embed_dim: 10 is not divisible by model.num_heads=3",
    "model.img_size=9 model.patch_size=2": "model.img_size: 9 is not divisible by model.patch_size=2",
    "model.in_chans=1 data.mean=[.1,.2,.3]": "data.mean: [0.1, 0.2, 0.3] has 3 numbers; it must have 1",
    "data.repeated_aug=true data.no_aug=true": "data.repeated_aug: repeats the same images where data.no_aug=true; "
    "set one of them",
    "optimizer.warmup_epochs=11": "optimizer.warmup_epochs: 11.0 is more than trainer.max_epochs=10",
    "trainer.gradient_clip_algorithm=norm": "trainer.gradient_clip_algorithm: has no effect without "
    "trainer.gradient_clip_val",
    "teacher.train=true teacher.model=x": "teacher.model: excluded by teacher.train; set at most one of train, run "
    "and model",
    "teacher.run=x teacher.model=x": "teacher.model: excluded by teacher.run; set at most one of train, run and model",
    "teacher.epochs=3": "teacher.epochs: has no effect without teacher.train=true",
    "teacher.pretrained=false": "teacher.pretrained: has no effect without teacher.model",
    "budget.round_to=8": "budget.round_to: the method 'scaled' takes no budget; leave it out",
    "budget.min_keep.heads=2": "budget.min_keep.heads: the method 'scaled' takes no budget; leave it out",
    "method.s=0.5 method.l=0.5": "method.s: 0.5 must be less than method.l = 0.5",
    "method.granularity=0.2": "method.granularity: steps of 0.2 miss l",
    "model.embed_dim=6": "method: widths that do not divide",
    "callbacks.fade.sampling=never": "callbacks.fade.sampling: 'never' fades nothing",
    "method.slice=heads method.name=plain": "method.slice: unknown key; the keys of 'method' are name",
}
FILES = {
    "model.pretrained=no/x.bin": "model.pretrained: there is no file 'no/x.bin'",
    "model.pretrained=no/x.pth": "model.pretrained: there is no file 'no/x.pth'",
    "teacher.model=x teacher.pretrained=no.pt": "teacher.pretrained: there is no file 'no.pt'",
    "teacher.run=runs/no": "teacher.run: 'runs/no' is not the directory of a run: it has no config.yaml",
    "output_dir=/proc/runs": "output_dir: /proc/runs: no permission to write",
    "output_dir=experiments/ok.yaml/runs": "output_dir: experiments/ok.yaml/runs: '{cwd}/experiments/ok.yaml' is a "
    "file; name a directory",
}
INTERPOLATIONS = {
    "seed=${nothing}": r"seed: '${nothing}' refers to a key that does not exist; write \${ for a plain ${",
    "seed=${seed}": "seed: '${seed}' cannot be resolved: it must refer to a plain value, and not to itself",
    "seed=${trainer}": "seed: a section of keys is not an integer",
    "seed=${method.name}": "seed: 'scaled' is not an integer",
    "seed=${optimizer.lr} optimizer.lr=???": "seed: '${optimizer.lr}' refers to a value that is missing; set that "
    "one first",
    "seed=${": r"seed: '${' is not an interpolation ${section.key}; write \${ for a plain ${",
    "seed=${oc.env:HOME}": "seed: '${oc.env:HOME}' calls a resolver; only ${section.key} is allowed, nothing is "
    "evaluated",
    "description=${oc.${seed}:HOME}": "description: '${oc.${seed}:HOME}' calls a resolver; only ${section.key} is "
    "allowed, nothing is evaluated",
    "slurm.setup=['${oc.env:HOME}']": "slurm.setup[0]: '${oc.env:HOME}' calls a resolver; only ${section.key} is "
    "allowed, nothing is evaluated",
}
SYNTAX = {
    "foo": "'foo': an override has the form key=value",
    "=1": "'=1': an override has the form key=value",
    "optimizer..lr=1": "'optimizer..lr=1': an override has the form key=value",
    "optimizer.lr=[1": "optimizer.lr: invalid YAML: expected ',' or ']', but got '<stream end>'",
    "seed=!!python/object/apply:os.getpid []": "seed: invalid YAML: the tag !!python/object/apply:os.getpid is not "
    "allowed",
    "base=[x]": "base: set it in the file of an experiment, not on the command line",
}
TABLE = UNKNOWN_KEYS | WRONG_TYPES | OUT_OF_RANGE | MISSING_VALUES | TOGETHER | FILES | INTERPOLATIONS | SYNTAX


@pytest.mark.parametrize(("overrides", "message"), TABLE.items(), ids=TABLE)
def test_bad_override_has_exact_message(place: Path, overrides: str, message: str) -> None:
    separate = re.split(r" (?=[\w.]+=)", overrides)
    with pytest.raises(UserError) as raised:
        load_experiment("ok", separate)
    assert str(raised.value) == message.replace("{cwd}", str(place))
