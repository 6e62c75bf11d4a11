# make sweep   a first sweep, from nothing            make test   everything that is promised, checked
# make doctor  what this machine can do, and lacks    make lint types format lock   for contributors
# make bench   speed, side by side with what people use instead        make bench-gpu   the same on a CUDA device
# make test-cluster   tests on a real SLURM; as root on Debian, whose packages it installs
# make test-faults    the whole table of faults, of which make test has a draw; power cuts as root alone
# make test-oldest test-newest    the versions that pyproject.toml allows, of all but torch; what needs no torch
# make audit   known vulnerabilities of the locked packages; needs the network

PYTHON ?= python3
PY := .venv/bin/python
SHELL := bash
# Of pip's chatter only what takes time: the large downloads and the unpacking; its warnings, if all went well, in one line.
INSTALL = set -o pipefail; PYTHONUNBUFFERED=1 $(PY) -m pip install --no-input --disable-pip-version-check \
	--progress-bar off -c requirements.lock -e '$(PACKAGE)' 2>.venv/pip-warnings.txt \
	| { grep --line-buffered -oE '(Downloading|Using cached) [^ ]+ \([0-9.]+ [MG]B\)|Installing collected packages' || true; } \
	|| { cat .venv/pip-warnings.txt >&2; exit 1; }; \
	[ ! -s .venv/pip-warnings.txt ] || echo "What pip warned of is in .venv/pip-warnings.txt."

# Whole files to each process, as the fixtures of many of them train; the longest first (tests/conftest.py).
PARALLEL = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

NO_TORCH = analysis candidates choice config identity multirun_analysis numbers pareto plots record sources split statistics
WITHOUT_TORCH = $(shell $(PY) -c 'import re, tomllib; \
	needs = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(repr(need) for need in needs if not re.match("torch|timm|fvcore", need)))') \
	'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-xdist>=3.8' 'hypothesis>=6.100' 'nbclient>=0.10' 'hydra-optuna-sweeper>=1.2' 'pyparsing<3.3'

.PHONY: sweep test test-oldest test-newest test-faults test-cluster bench bench-gpu lint types format doctor lock audit
.DEFAULT_GOAL := sweep

sweep: .venv/.sweep
	@$(PY) -m har_sweep -m model=resnet18,vit_base,vit_tiny
	@$(PY) -m multirun_analysis

test: .venv/.dev .venv/.hydra-1.4
	@tests/browser.sh
	@tests/fuse.sh
	@$(PY) -m pytest $(PARALLEL)
	@PYTHONPATH=$(CURDIR)/.venv/hydra-1.4 $(PY) -m pytest $(PARALLEL) tests/test_config.py tests/test_hydra.py

# What people's own environments have, in one beside .venv.
test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: .venv/.dev
	@$(PY) -m uv venv --quiet --clear --python $(PY) .venv/versions
	@$(PY) -m uv pip install --quiet --python .venv/versions/bin/python --resolution $(RESOLUTION) $(WITHOUT_TORCH)
	@PYTHONPATH=$(CURDIR) .venv/versions/bin/python -m pytest $(PARALLEL) $(NO_TORCH:%=tests/test_%.py)

test-faults: .venv/.dev
	@tests/fuse.sh
	@FAULTS=all $(PY) -m pytest -n logical --maxprocesses 4 tests/faults

test-cluster: .venv/.dev
	@tests/slurm/install.sh
	@$(PY) -m pytest tests/slurm

bench: .venv/.bench
	@$(PY) benchmarks

bench-gpu: .venv/.bench
	@$(PY) benchmarks --device cuda

lint: .venv/.dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: .venv/.dev
	$(PY) -m mypy

format: .venv/.dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

doctor: .venv/.sweep
	@$(PY) -m har_sweep.doctor

# Keeps the pins that still fit pyproject.toml; delete requirements.lock first for the newest versions.
lock: .venv/.dev
	$(PY) -m uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

# In an environment of its own, which uv keeps in its cache: nothing is added to the lock for it.
audit: .venv/.dev
	$(PY) -m uv tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

.venv/.sweep: PACKAGE = .
.venv/.sweep: .venv/.made pyproject.toml requirements.lock
	@echo "Installing what a sweep needs into .venv: some minutes and about 6 GB, the first time."
	@$(INSTALL)
	@touch $@

.venv/.dev: PACKAGE = .[dev,compact,elpv,hub,openvino,search]
.venv/.dev: .venv/.made pyproject.toml requirements.lock
	@echo "Installing what sweeps and tests need into .venv: some minutes and about 6 GB, the first time."
	@$(INSTALL)
	@touch .venv/.sweep $@

# The next Hydra, in a folder of its own that comes before what .venv has.
.venv/.hydra-1.4: requirements-hydra-1.4.txt .venv/.made
	@rm -rf .venv/hydra-1.4
	@$(PY) -m pip install --no-input --disable-pip-version-check -qq --no-deps --target .venv/hydra-1.4 -r $<
	@touch $@

.venv/.bench: PACKAGE = .[bench]
.venv/.bench: .venv/.made pyproject.toml requirements.lock
	@echo "Installing what sweeps and benchmarks need into .venv: some minutes and about 6 GB, the first time."
	@$(INSTALL)
	@touch .venv/.sweep $@

# Debian keeps venv's pip in a package of its own; where that is missing and may be installed, it is.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "har_sweep needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Install one, and name it: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { \
		echo "Installing python3-venv, which Debian's Python lacks."; \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null; }; } || { \
		echo "'$(PYTHON)' cannot make virtual environments: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment .venv with $$($(PYTHON) --version): some seconds."
	@$(PYTHON) -m venv .venv
	@touch $@
