# Everything a person does here, by name. `make` alone lists it. All of it runs in .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

comma := ,
space := $(subst ,, )

BIN := .venv/bin
PYTHON := $(BIN)/python

# Options of single targets, set on the command line: make submit JOB=jobs/infill.py ARGS="..."
ARGS ?=
JOB ?=
RUNS ?=
MINUTES ?= 60
ADDRESS ?= http://127.0.0.1:8265
OUTPUTS ?= $(or $(GFN_RAY_HOME),$(CURDIR))
COMMA := ,
MLFLOW_PORT ?= 5000

# The tools that we build on do not report home from here.
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

##@ Start here

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Create .venv, or bring it up to date (PROFILE=cpu|gpu)
	@bash scripts/setup.sh

.PHONY: infill
infill: setup ## Train the story infilling policy on this machine (ARGS="--help")
	@$(PYTHON) jobs/infill.py $(ARGS)

.PHONY: random-number
random-number: setup ## Train a policy to write random integers uniformly (ARGS="--help")
	@$(PYTHON) jobs/random_number.py $(ARGS)

.PHONY: arithmetic
arithmetic: setup ## Train chains of calculation, with a calculator (ARGS="--help")
	@$(PYTHON) jobs/arithmetic.py $(ARGS)

.PHONY: continuation
continuation: setup ## Train a policy to continue a text by likely, different sentences (ARGS="--help")
	@$(PYTHON) jobs/continuation.py $(ARGS)

.PHONY: prompts
prompts: setup ## Train on your prompts and your reward function; by itself, on sets of words (ARGS="--help")
	@$(PYTHON) jobs/prompts.py $(ARGS)

.PHONY: subjectivity
subjectivity: setup ## Train rationales that help to label sentences, by EM on ten labels (ARGS="--help")
	@$(PYTHON) jobs/subjectivity.py $(ARGS)

.PHONY: tune-base
tune-base: setup ## Tune the base model on stories, for infilling's --task.base-adapter (ARGS="--help")
	@$(PYTHON) jobs/tune_base.py $(ARGS)

# Until the minute is over: far more updates than that takes.
.PHONY: profile
profile: setup ## Trace a minute of training: where does the time go? (JOB=jobs/infill.py ARGS="--help")
	@$(PYTHON) $(or $(JOB),jobs/infill.py) --profile.seconds 60 --profile.then-stop --steps 100000 $(ARGS)

.PHONY: compare
compare: setup ## Compare finished runs on the same held-out queries (RUNS="runs/a runs/b")
	@test -n "$(RUNS)" || { echo 'compare: say which runs, as in: make compare RUNS="runs/a runs/b"' >&2; exit 2; }
	@$(PYTHON) jobs/compare.py --runs "$(subst $(space),$(comma),$(strip $(RUNS)))" $(ARGS)

# Both go on from what is finished.
.PHONY: comparison-quick
comparison-quick: setup ## GFlowNet training beside MLE, PPO, RLOO and DPO, small; a quarter of an hour
	@$(PYTHON) jobs/comparison.py $(ARGS)

.PHONY: comparison
comparison: setup ## The same on every task, with learning rates tried and three seeds; hours (ARGS="--sections modes")
	@$(PYTHON) jobs/comparison.py --table full $(ARGS)

##@ Develop

.PHONY: test
test: setup ## Run all tests on real Ray and vLLM; a quarter of an hour (ARGS="-k replay")
	@bash scripts/test.sh $(ARGS)

.PHONY: test-unit
test-unit: setup ## Run the tests that need neither Ray nor vLLM
	@$(PYTHON) -m pytest -n 2 --dist loadfile tests/unit $(ARGS)

.PHONY: fuzz
fuzz: setup ## Run the tests of properties on many more examples each; half an hour
	@$(PYTHON) -m pytest -n 2 -m hypothesis --hypothesis-profile=thorough tests $(ARGS)

.PHONY: exactness
exactness: setup ## Train every objective on a posterior that can be listed; half an hour (ARGS="--help")
	@$(PYTHON) benchmarks/exactness.py $(ARGS)

.PHONY: continuation-diversity
continuation-diversity: setup ## Draw finished continuation runs on one plane (ARGS="RUN_DIR ... --out plane")
	@$(PYTHON) benchmarks/continuation_diversity.py $(ARGS)

# A line a figure, without what others say while they load.
BENCH := PYTHONPATH=. TQDM_DISABLE=1 PYTHONWARNINGS=ignore $(PYTHON) benchmarks/bench.py

.PHONY: bench
bench: setup ## Measure ours beside the plain way, five rounds each; nearly two hours (ARGS="--help")
	@$(BENCH) $(ARGS)

.PHONY: bench-quick
bench-quick: setup ## Measure each figure once, and small: does it run? A quarter of an hour
	@$(BENCH) --quick $(ARGS)

.PHONY: gpu-smoke
gpu-smoke: setup ## See whether learner, reward and a whole run work on this machine's GPU; 8 minutes
	@PYTHONPATH=. $(PYTHON) benchmarks/gpu_smoke.py $(ARGS)

.PHONY: mutants
mutants: setup ## Put bugs into a copy, one at a time, and see that a test fails on each
	@$(PYTHON) scripts/mutation_check.py

# What tests and benchmarks share is found from here.
.PHONY: chaos
chaos: setup ## Let forty faults befall a run on the tiny model; half an hour (ARGS="--help")
	@PYTHONPATH=. $(PYTHON) benchmarks/chaos.py $(ARGS)

.PHONY: test-cluster
test-cluster: setup ## Lose machines of a cluster in network namespaces, one after another; ten minutes, root
	@PYTHONPATH=. $(PYTHON) benchmarks/nodes.py $(ARGS)

.PHONY: soak
soak: setup ## Train on the tiny model for MINUTES=60 and see whether anything grows (ARGS="--help")
	@PYTHONPATH=. $(PYTHON) benchmarks/soak.py --minutes $(MINUTES) $(ARGS)

.PHONY: lint
lint: setup ## Check format, style, types and layering
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy gfn_ray
	$(BIN)/lint-imports --no-logo

.PHONY: audit
audit: setup ## Look for unsafe code, and for known vulnerabilities of the locked packages
	@bash scripts/audit.sh

.PHONY: format
format: setup ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

##@ Run on a Ray cluster

# Clusters of several machines: clusters/README.md.
.PHONY: ray-up
ray-up: setup ## Start Ray on this machine, for this account on this machine only
	@bash clusters/local.sh

# Ray runs a copy of this folder; GFN_RAY_HOME says where runs/ and mlflow.db are to go instead: here,
# or OUTPUTS on the machine that runs the job; OUTPUTS= leaves it to that machine (~/gfn_ray).
# A stopped job gets a minute, not Ray's three seconds, to write its checkpoint. A token that is there
# is shown, which Ray's own command does only where it is told to.
.PHONY: submit
submit: export RAY_AUTH_MODE ?= $(if $(RAY_AUTH_TOKEN)$(RAY_AUTH_TOKEN_PATH)$(wildcard $(HOME)/.ray/auth_token),token,disabled)
submit: setup ## Submit a job: JOB=jobs/infill.py ARGS="..." (ADDRESS=http://host:8265)
	@test -n "$(JOB)" || { echo 'submit: say which job, as in: make submit JOB=jobs/infill.py ARGS="--help"' >&2; exit 2; }
	@test -f "$(JOB)" || { echo 'submit: there is no file $(JOB); the jobs are: $(wildcard jobs/*.py)' >&2; exit 2; }
	@$(BIN)/ray job submit --address $(ADDRESS) --working-dir . \
	  --runtime-env-json '{"env_vars": {$(if $(OUTPUTS),"GFN_RAY_HOME": "$(OUTPUTS)"$(COMMA) )"RAY_JOB_STOP_WAIT_TIME_S": "60"}}' -- python $(JOB) $(ARGS)

.PHONY: ray-down
ray-down: setup ## Stop Ray on this machine
	@$(BIN)/ray stop

.PHONY: mlflow-ui
mlflow-ui: setup ## Show the runs at http://127.0.0.1:5000 (MLFLOW_PORT=5000)
	@echo 'MLflow: http://127.0.0.1:$(MLFLOW_PORT)/#/experiments?workflowType=machine_learning'
	@$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1

##@ Maintain

.PHONY: wheel
wheel: setup ## Build dist/gfn_ray-*.whl, which installs the command gfn-ray (pip install "...whl[cpu]")
	@$(PYTHON) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

# Versions that are locked stay as they are unless LOCK_ARGS=--upgrade is said.
LOCK_ARGS ?=
LOCK_COMMAND = uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
  --only-binary :all: --excludes requirements/$(1)-excludes.txt --no-annotate --no-header requirements/$(1).in
define compile_lock
$(call LOCK_COMMAND,$(1)) $(LOCK_ARGS) --output-file requirements/$(1).lock >/dev/null
sed -i '1i # `make lock` made this ($(call LOCK_COMMAND,$(1))). It is complete: install it with pip install --no-deps.' requirements/$(1).lock
endef

.PHONY: lock
lock: setup ## Compile requirements/*.lock anew (LOCK_ARGS=--upgrade for newer versions)
	@command -v uv >/dev/null || { echo 'lock: uv was not found; install it (pipx install uv), then run make lock again.' >&2; exit 2; }
	@$(call compile_lock,cpu)
	@$(call compile_lock,gpu)

.PHONY: clean
clean: ## Delete caches and build leftovers; runs/, mlflow.db and .venv stay
	@rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@rm -f .venv-setup.log
	@find . \( -name .venv -o -name .git -o -name runs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
