# Two commands: `make train` (the main job) and `make test`. Each installs first if that has not been done.
#   make train KG=path/to/kg.csv ARGS="--num-epochs 50"
#   make train TORCH=cpu                   Linux without an NVIDIA GPU: torch's CPU build, without gigabytes of CUDA

KG ?=
ARGS ?=
PYTHON ?=
TORCH ?= $(if $(wildcard .venv/.installed-cpu),cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
DEMO := runs/demo/kg.csv
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python)
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed$(if $(filter Linux,$(shell uname -s)),$(TORCH:%=-%))

.PHONY: install train test test-all fast all lint lock check-lock image clean
.DEFAULT_GOAL := train

install: $(INSTALLED)

# hgt/device/machine.py says how much will be downloaded, or why this machine cannot have it.
$(INSTALLED): pyproject.toml requirements.lock
	@for python in $(CANDIDATES); do \
		if "$$python" -c '$(FITS)' >/dev/null 2>&1; then found="$$python"; break; fi; \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' >/dev/null 2>&1; then other="$$python"; fi; \
	done; \
	if [ -z "$$found$$other" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 was found (tried: $(CANDIDATES)). Install one from python.org, or give PYTHON=/path/to/python3.12." >&2; \
		exit 2; \
	fi; \
	"$${found:-$$other}" -I hgt/device/machine.py "$(TORCH)" && \
	echo "Installing into $(VENV) with $$found." && \
	"$$found" -m venv $(VENV) && \
	$(if $(filter %-cpu,$(INSTALLED)),$(CPU_TORCH) &&) \
	$(PIP) install --constraint requirements.lock --editable '.[test]' && \
	touch $(VENV)/.installed $@

# From a folder of wheels where pip has one that holds it (PIP_FIND_LINKS), else from PyTorch's index.
LOCKED_TORCH = $$(sed -n "s/^\(torch==[^ ;]*\) *;.*!= 'darwin'.*/\1/p" requirements.lock)
CPU_TORCH = { $(PIP) install --no-deps --no-index "$(LOCKED_TORCH)+cpu" 2>/dev/null || \
	$(PIP) install --no-deps --index-url $(TORCH_INDEX) "$(LOCKED_TORCH)+cpu"; }

$(DEMO): | install
	@mkdir -p $(dir $@)
	@$(VENV)/bin/hgt demo-graph $@

# `hgt train` says with exit code 3 that the embeddings were rejected; make reports any failure as 2.
train: install $(if $(KG),,$(DEMO))
	@$(VENV)/bin/hgt train --kg "$(or $(KG),$(DEMO))" $(ARGS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Two files of tests at a time, long ones first, one thread each: threads of two trainings on two cores wait for one another.
# Bytecode is kept whatever the environment says: 30 programs that the tests start would compile the product anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The checks run beside the tests: mypy alone holds one core for half a minute.
test: install
	@$(MAKE) --no-print-directory -j2 lint fast

test-all: install
	@$(MAKE) --no-print-directory -j2 lint all

fast: install
	$(PYTEST)

all: install
	$(PYTEST) -m 'not docker and not bench'

# The lock file: one solution for all platforms, made by uv (see CONTRIBUTING.md).
lock: install
	$(VENV)/bin/python .ci/lock.py make $(ARGS)

check-lock: install
	$(VENV)/bin/python .ci/lock.py check

# The CPU worker's image. Optional: DOCKER, BASE_IMAGE, TORCH_INDEX, BUILD_FLAGS, WHEELS, HGT_IMAGE (see tasks/execution/image.py).
image: install
	@$(VENV)/bin/python -m tasks.execution.image

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
