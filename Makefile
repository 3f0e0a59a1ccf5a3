# Every target works in a fresh clone: the virtual environment is made and filled by whatever target comes first.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
unexport PYTHONDONTWRITEBYTECODE  # each process that a test starts would compile the package anew

.PHONY: demo test test-all bench gpu gpu-kit card lint types docs install clean

demo: $(VENV)/.installed
	$(BIN)/python recipes/digits.py --output_dir runs/digits

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow"

# the tests for a GPU too, on the CPU
test-all: $(VENV)/.installed-dev
	HF_BKD_GPU_DEVICE=$${HF_BKD_GPU_DEVICE:-cpu} $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# what is claimed of speed and memory, measured here; a missed bar is no error, and is best judged on an idle machine
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run_all.py

# does everything work on a GPU, how fast, and first cells of a study; a second time it goes on
MINUTES ?= 8
gpu: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu.py --minutes $(MINUTES) --output runs/gpu --data "$(DATA)"

# wheels and CIFAR-100 for that on a machine without a network; see docs/gpu.md
gpu-kit: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=0 $(BIN)/python benchmarks/gpu_kit.py --data $(or $(DATA),uoft-cs/cifar100) --output build/gpu-kit

# publish the run in runs/NAME as model_cards/NAME
card: $(VENV)/.installed
	mkdir -p model_cards/$(NAME)
	cp runs/$(NAME)/results.json model_cards/$(NAME)/
	$(BIN)/hf-bkd report model_cards/$(NAME)
	mv model_cards/$(NAME)/report.md model_cards/$(NAME)/README.md

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# whether the public names have types that a caller's checker sees
types: $(VENV)/.installed-dev
	$(BIN)/mypy

# the documentation as a site, in site/; needs no network
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) runs build site *.egg-info

# uv installs in a fifth of pip's time; where it can't be had, pip does it
INSTALL = { $(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/pip install -q uv; } && \
	$(BIN)/python -m uv pip install -q --compile-bytecode --python $(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing hf_bkd and what it needs into $(VENV) (once; several GB, some minutes)"
	$(INSTALL) -e '.[recipes]' || $(BIN)/pip install -e '.[recipes]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]' || $(BIN)/pip install -e '.[dev]'
	@touch $@
