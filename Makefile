# Everything runs in one virtual environment, made by `make setup` from pinned dependencies.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow test-tensorflow test-extras test-export test-remote test-ray fuzz check format lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Counterpoint needs Python 3.11 or later: make setup PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/counterpoint demo --out demo

test: setup
	$(BIN)/pytest --numprocesses 2

test-slow: setup
	$(BIN)/pytest -m slow

# Proves with TensorFlow's own parser that the records are the same in both directions.
test-tensorflow: setup
	$(BIN)/pip install --quiet --editable '.[tensorflow]' --constraint requirements.lock
	$(BIN)/pytest -m tensorflow

# What the extras add: text, and models by name. timm is tested where it is installed (see docs/decisions.md).
test-extras: setup
	$(BIN)/pip install --quiet --editable '.[text,any]' --constraint requirements.lock
	$(BIN)/pytest tests/media/test_text.py tests/media/test_pretrained.py

# Models as ONNX, with onnxruntime, and as pt2: all families.
test-export: setup
	$(BIN)/pip install --quiet --editable '.[export]' --constraint requirements.lock
	$(BIN)/pytest -m 'slow or not slow' tests/test_exporting.py

# Shards in an S3 store: moto's server, made to fail.
test-remote: setup
	$(BIN)/pip install --quiet --editable '.[remote]' 'moto[s3,server]>=5' --constraint requirements.lock
	$(BIN)/pytest -m remote

# Extraction and categorization by Ray, of which workers are killed.
test-ray: setup
	$(BIN)/pip install --quiet --editable '.[ray]' --constraint requirements.lock
	$(BIN)/pytest -m ray

# Bad input, searched for: make fuzz INPUTS=100000 SECONDS=600 SEED=2026 JOBS=2 TARGETS='payload file'
INPUTS ?= 1000
SECONDS ?= 600
JOBS ?= 1
fuzz: setup
	PYTHONPATH=tests $(BIN)/python -m fuzz $(TARGETS) --inputs $(INPUTS) --seconds $(SECONDS) --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Pins what the ranges of pyproject.toml resolve to today; torch is pinned by hand (see docs/decisions.md).
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 'setuptools>=77' wheel 'python-dateutil<3' '.[dev]'
	.venv-lock/bin/pip freeze --all --exclude counterpoint --exclude pip | sed 's/+cpu//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv demo
