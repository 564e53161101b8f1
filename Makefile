# Two commands do everything: make demo, make test. VENV may lie anywhere; it is made once per requirements.lock.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
HER2 := $(BIN)/her2
READY := .venv-ready
export TQDM_MININTERVAL ?= 1

.PHONY: demo test test-slow study lab bench lock lint
demo: $(READY)
	$(HER2) run demo
test: $(READY)
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q --nbval-lax --nbval-current-env notebooks/[01]*.ipynb notebooks/9[123]*.ipynb
test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow
study: $(READY)
	$(HER2) run $(or $(STUDY),bci)
lab: $(READY)
	$(BIN)/jupyter lab notebooks/
bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done
lock: $(READY)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# uv lives inside the environment: pip fetches uv, uv fetches the rest (37 s against 3 minutes)
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --no-deps -e .
	touch $(READY)
