# Two commands do everything: `make repro` and `make test`. Both make the pinned environment first, if it is missing.
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# a study starts some thirty processes: without kept bytecode, each would compile the source of torch anew
unexport PYTHONDONTWRITEBYTECODE
ENVIRONMENT := $(VENV)/.complete
STUDY ?= runs/quick

.PHONY: repro quick reference sharing test test-fast golden lint lock figures clean environment
.DEFAULT_GOAL := repro

repro: $(ENVIRONMENT)  ## train the networks, draw the figures, judge the claims
	python -m facespec repro

quick: $(ENVIRONMENT)  ## the same in minutes, at small size, in runs/quick
	python -m facespec init runs/quick --profile quick
	python -m facespec repro runs/quick

reference: $(ENVIRONMENT)  ## ten seeds, 24 epochs: the study of the verdicts; about two hours, resumed where it was stopped
	python -m facespec init runs/reference --profile reference
	python -m facespec repro runs/reference
	python .ci/reference.py runs/reference docs/reference

sharing: $(ENVIRONMENT)  ## what a joint network costs, and when: about eight hours of a core, resumed where it was stopped
	python -m facespec init runs/sharing --grid
	python .ci/sharing.py restore docs/sharing runs/sharing
	python -m facespec repro runs/sharing
	python .ci/sharing.py keep runs/sharing docs/sharing

test: $(ENVIRONMENT)  ## the whole test suite, notebooks included
	python -m pytest -n auto --durations=25

test-fast: $(ENVIRONMENT)  ## everything but the tests that run whole pipelines, with fewer random examples
	python -m pytest -n auto --durations=10 --hypothesis-profile=fast -m "not pipeline"

figures: $(ENVIRONMENT)  ## draw every figure of the quick study and compare what is drawn with its tables
	python -m pytest --nbval-lax -p no:cacheprovider $(STUDY)/Analysis_Reproduction

golden: $(ENVIRONMENT)  ## record the quick study anew, after a change that is meant to change numbers
	rm -rf runs/golden
	python -m facespec init runs/golden --profile quick
	python -m facespec repro runs/golden
	python .ci/golden.py runs/golden tests/golden/quick.json

lint: $(ENVIRONMENT)
	ruff check .
	ruff format --check .
	mypy

environment: $(ENVIRONMENT)

$(ENVIRONMENT): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and f"facespec is pinned for Python 3.11, found {v[0]}.{v[1]}: install it, or run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $@

lock: $(ENVIRONMENT)  ## pin again from the ranges in pyproject.toml
	uv lock --quiet
	uv export --quiet --all-groups --all-extras --no-emit-project --no-header --output-file requirements.lock
	python .ci/pins.py

clean:  ## remove everything that can be made again
	rm -rf $(VENV) runs data checkpoints build .dvc/cache .dvc/tmp *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	git clean -dxq --force Results
