# make demo   from nothing to synthesized brains in a Slicer scene (about six minutes on two cores)
# make test   the test suite; make test-quick what takes under a minute of it; make test-long all, before a release
# Both set up .venv first when it is missing or out of date, and need no network once it is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A module of tests stays in one process, so that what it makes is made once; the longest are begun first. Three on two
# cores, since tests wait for the processes that they start.
TESTS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
export MPLBACKEND := Agg
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-quick test-long lint setup clean

setup: $(READY)

$(READY): pyproject.toml Testing/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@echo "Setting up $(VENV): PyTorch, MONAI and Slicer's core, once, a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement Testing/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@sh Testing/Tools/ensure_egl.sh
	@touch $(READY)

test: $(READY)
	@$(BIN)/python -m pytest $(TESTS)

test-quick: $(READY)
	@$(BIN)/python -m pytest $(TESTS) -m "not slow and not long"

test-long: $(READY)
	@sh Testing/Tools/test_long.sh $(BIN)/python -m pytest $(TESTS) -m "" --cov

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

demo: $(READY)
	@sh Testing/Tools/demo.sh $(BIN)/gedgan demo

clean:
	rm -rf $(VENV) demo build *.egg-info
