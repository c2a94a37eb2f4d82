# Each target sets up what it needs, so that `make train` works in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
TRAIN_ARGS ?= --seeds 3 --epochs 40
# Two test files at a time, each with its own clusters. On two CPUs, more would only slow each other down.
# A test that hangs ends its process, and is run again in another one.
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 3

.PHONY: setup train test test-all test-fast simulate mutants mutants-drawn annexes fuzz check bench record format docs pictures lock clean

setup: .venv/runtime

train: .venv/runtime
	$(BIN)/python -m jobs.train $(TRAIN_ARGS)

test: .venv/dev
	$(BIN)/$(PYTEST) -m "not long"

test-all: .venv/dev
	$(BIN)/$(PYTEST) -m "not mutants"

test-fast: .venv/dev
	$(BIN)/$(PYTEST) -m "not slow and not long" --hypothesis-profile fast

# A long campaign of simulated worlds; `make check` simulates 500.
simulate: .venv/dev
	$(BIN)/python -m tests.support.simulation.campaign $(or $(N),100000) $(or $(SEED),1)

# Faults that are put into the code on purpose, and that the named tests or the simulated worlds must notice.
mutants: .venv/dev
	$(BIN)/pytest -n 2 tests/test_mutants.py

# Faults drawn from a seed, which is printed. `make mutants-drawn SEED=7` draws the same ones again.
mutants-drawn: .venv/dev
	$(BIN)/python -m tests.support.mutants.drawn $(or $(N),20) $(or $(SEED),$(shell date +%s))

# Each command that the project can do without is deleted from a copy, in which the fast tests must pass.
annexes: .venv/dev
	$(BIN)/python -m tests.support.without_annex

# Random hostile input to everything that reads files; `make test` tries a little of it.
fuzz: .venv/dev
	$(BIN)/pytest -n 2 -m fuzz --hypothesis-profile campaign --timeout 0 $(FUZZ_ARGS)

# Real clusters share two CPUs with other tests. So tests that failed (pytest's exit code 1) run once more, alone, and the
# first that fails again fails the check. Any other exit code, such as that of a crash or of an interrupt, fails it at once.
ONCE_MORE = { code=$$?; [ $$code = 1 ] || exit $$code; \
  echo "The tests named below failed, and run once more, alone:"; \
  $(BIN)/pytest -v --strict-skips --exitfirst --last-failed --last-failed-no-failures none; }

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/$(PYTEST) -m "not mutants" --strict-skips --cache-clear || $(ONCE_MORE)
	$(BIN)/pytest -n 2 tests/test_mutants.py --cache-clear || $(ONCE_MORE)

# benchmarks/README.md records the results with BENCH_ARGS="--source DIR", a folder with the four original MNIST files.
bench: .venv/dev .venv-bench/peers .venv-tune/peers
	$(BIN)/python -m benchmarks.training $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.job $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.accuracy $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.store $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.predicting $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.survival $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.promotion $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.label_errors $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.search $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.intervals
	$(BIN)/python -m benchmarks.groups
	$(BIN)/python -m benchmarks.grouped_promotions
	$(BIN)/python -m benchmarks.near_copies $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.few_pictures $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.fine_tuning $(BENCH_ARGS)

# Time to 99.0% on MNIST, and the accuracy of the best model. RECORD_ARGS="--source DIR", as for `bench`.
record: .venv/dev
	$(BIN)/python -m benchmarks.accuracy --record fast $(RECORD_ARGS)
	$(BIN)/python -m benchmarks.accuracy --record held-out $(RECORD_ARGS)

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# `docs` writes the generated pages of the reference, `pictures` the pictures of the README from a new run.
docs: .venv/dev
	$(BIN)/python -m docs.reference.make

pictures: .venv/dev
	$(BIN)/python -m docs.pictures.make

# The lock files contain hashes and no index, so that they work with any mirror.
lock: .venv/dev
	for extra in runtime dev gpu; do \
	  $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $(LOCK_ARGS) -o requirements/$$extra.lock \
	    $$([ $$extra = runtime ] || echo "--extra $$extra -c requirements/runtime.lock"); \
	done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.venv/runtime: requirements/runtime.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); use: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up .venv: a minute or two, about 3 GB"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Peers have their own environments, since they would slow the import of Keras. They are not locked; the benchmarks
# record the versions.
.venv-bench/peers:
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check "torch>=2.9,<2.14" "jax>=0.7,<0.11" "mlflow>=3.5,<4"
	@touch $@

.venv-tune/peers: requirements/runtime.lock
	@$(PYTHON) -m venv .venv-tune
	@.venv-tune/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	@.venv-tune/bin/pip install --quiet --disable-pip-version-check "ray[tune]" optuna scikit-learn pandas scipy matplotlib
	@touch $@

.venv/dev: .venv/runtime requirements/dev.lock
	@echo "Adding the development tools to .venv"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@
