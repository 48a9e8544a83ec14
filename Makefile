# The table of contents. Every command is `vitc`; see `vitc --help`.
.DEFAULT_GOAL := help
PYTHON ?= python3
EXP ?= scala_digits
ARGS ?=
RUN ?= runs/$(EXP)/default
OUT ?= exports/$(EXP)
RUNS ?= $(RUN)
REPORT ?= reports/$(EXP)
NODES =
GPUS =
TIME =
VITC := .venv/bin/vitc
# Of tests: one more than there are cores, since many wait for processes that they start.
WORKERS = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

.venv/.ready: pyproject.toml constraints.txt
	@echo "Setting up .venv (some minutes, several GB with torch's libraries) ..."
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,export]'
	@touch $@

.PHONY: help setup train test test-fast gpu-check lint list tensorboard export evaluate benchmark report slurm clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: .venv/.ready  ## make .venv with everything in it

train: .venv/.ready  ## run an experiment: make train EXP=scala_deit_b ARGS="data.root=/data/imagenet"
	@$(VITC) train $(EXP) $(ARGS)

test: .venv/.ready  ## the whole test suite
	.venv/bin/pytest -n $(WORKERS)

test-fast: .venv/.ready  ## the tests that take seconds
	.venv/bin/pytest -n $(WORKERS) -m "not slow"

gpu-check: .venv/.ready  ## whether all methods are right on the GPU, where there is one: make gpu-check ARGS="--out DIR"
	@.venv/bin/python benchmarks/gpu.py --tier check $(ARGS)

lint: .venv/.ready  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

list: .venv/.ready  ## experiments, methods, callbacks and data sets
	@$(VITC) list

tensorboard: .venv/.ready  ## curves of every run at http://localhost:6006
	.venv/bin/tensorboard --logdir runs

evaluate: .venv/.ready  ## accuracy of a run: make evaluate RUN=runs/scala_digits/default ARGS="--width 0.5"
	@$(VITC) evaluate $(RUN) $(ARGS)

export: .venv/.ready  ## write a compressed model: make export RUN=... OUT=... ARGS="--formats safetensors,onnx"
	@$(VITC) export $(RUN) --out $(OUT) $(ARGS)

benchmark: .venv/.ready  ## latency beside the dense model: make benchmark OUT=exports/... ARGS="--batch-sizes 1,16 --compile"
	@$(VITC) benchmark $(OUT) $(ARGS)

report: .venv/.ready  ## one page over runs: make report RUNS="runs/scala_digits/default runs/uvc_digits/default"
	@$(VITC) report $(RUNS) --out $(REPORT) $(ARGS)

slurm: .venv/.ready  ## write a batch script: make slurm EXP=... NODES=4 GPUS=8 TIME=24:00:00 ARGS=--submit
	@$(VITC) slurm $(EXP) $(if $(NODES),--nodes $(NODES)) $(if $(GPUS),--gpus-per-node $(GPUS)) \
		$(if $(TIME),--time $(TIME)) $(ARGS)

clean:  ## delete .venv and caches, never runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
