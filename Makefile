# One command each: `make search` sets everything up and runs the quickstart, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

MINUTES ?= 120
SEED ?= 0

.PHONY: search test test-slow faults soak lint bench bench-gpu ui lock clean

search: $(VENV)/.installed
	$(RUN) -m skdtune.search quickstart

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile

# Clusters of several nodes have the machine to themselves: beside an install Ray did not come up in
# time. The rest runs two files at a time, since a search waits as often as it works, the longest
# first, and so do the trainings of every method and an install.
INSTALL := tests/cluster/test_install.py
LONG := $(addprefix tests/,test_faults.py test_search.py test_every_space.py \
	$(addprefix skdtune/,test_teachers.py test_uploader.py test_spread.py test_nodes.py))
SLOW := $(RUN) -m pytest --durations=8 -m slow
test-slow: $(VENV)/.installed
	$(SLOW) --ignore=$(INSTALL) tests/cluster
	$(SLOW) -n 2 --dist loadfile --no-loadscope-reorder $(LONG) \
		$(filter-out $(LONG),$(wildcard tests/test_*.py tests/skdtune/test_*.py))
	$(SLOW) -n 2 $(INSTALL) tests/trainables

# The tests of what is promised about faults, at the size of the promise: 30 trials of which 20 and
# more are killed, a driver killed ten times, 2,000 broken files. docs/faults.md has what came of it.
FAULTS := tests/test_faults.py tests/skdtune/test_lock.py tests/skdtune/test_space.py \
	tests/trainables/sources/test_cifar.py
faults: $(VENV)/.installed
	SKDTUNE_FULL_SIZE=1 $(RUN) -m pytest --durations=0 -m "slow or not slow" $(FAULTS)

# Searches and final trainings under faults at random: `make soak MINUTES=30 SEED=7`.
soak: $(VENV)/.installed
	$(RUN) -m tests.soak --minutes $(MINUTES) --seed $(SEED)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The benchmarks that need no GPU, into benchmarks/RESULTS.md: about 20 minutes.
bench: $(VENV)/.installed
	$(RUN) -m benchmarks

# What only a GPU can show, into benchmarks/RESULTS-GPU.md: 10 minutes.
bench-gpu: $(VENV)/.installed
	$(RUN) -m benchmarks.gpu --output benchmarks/RESULTS-GPU.md

# The MLflow UI over the default database, on this machine alone.
ui: $(VENV)/.installed
	@echo "http://localhost:5000/#/experiments/1?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(VENV)/bin/mlflow server \
		--host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///mlflow.db \
		--allowed-hosts "localhost:*,127.0.0.1:*"

# Every version pinned with its hashes, for every platform and Python from 3.11 on.
lock: $(VENV)/.installed
	$(VENV)/bin/uv pip compile --universal --generate-hashes --python-version 3.11 \
		--extra dev --extra aws --extra gcp --no-annotate --no-header --upgrade \
		--output-file requirements.lock pyproject.toml

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	bash docs/cluster/install.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
