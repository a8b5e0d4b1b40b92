# Two commands: `make train` (the main job) and `make test`. Each installs first if that has not been done.
#   make train KG=path/to/kg.csv ARGS="--num-epochs 50"

KG ?=
ARGS ?=
PYTHON ?=
VENV := .venv
DEMO := runs/demo/kg.csv
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3 python)
NEW_ENOUGH := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

.PHONY: install train test test-all lint image clean
.DEFAULT_GOAL := train

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	@for python in $(CANDIDATES); do \
		if "$$python" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 was found (tried: $(CANDIDATES)). Install one from python.org, or give PYTHON=/path/to/python3.11." >&2; \
		exit 2; \
	fi; \
	echo "Installing into $(VENV) with $$found; this takes a few minutes the first time."; \
	"$$found" -m venv $(VENV) && \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]' && \
	touch $@

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

# Two files of tests at a time, one thread each: threads of two trainings on two cores wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m 'not docker and not bench'

# The CPU worker's image. Optional: DOCKER, BASE_IMAGE, TORCH_INDEX, BUILD_FLAGS, WHEELS, HGT_IMAGE (see tasks/image.py).
image: install
	@$(VENV)/bin/python -m tasks.image

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
