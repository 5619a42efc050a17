# Two commands: `make train` trains the default model, `make test` runs the tests. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PEERS := .venv-peers

.PHONY: train test test-peers lint setup clean

train: $(READY)
	$(VENV)/bin/tinydl train $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

# The same layers, losses and optimizers against PyTorch, which is never a dependency: an environment of its own.
test-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m pytest --override-ini="addopts=--strict-markers -ra" tests/peers $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

setup: $(READY)

$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(PEERS)/.ready: pyproject.toml setup.py
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 --editable '.[data,test]'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info
