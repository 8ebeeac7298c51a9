# Needs: git, make, Python >= 3.11. Everything else is installed into .venv from the locks in requirements/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export JUPYTER_PLATFORM_DIRS := 1
# An inherited PYTHONDONTWRITEBYTECODE triples every process's start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo docs test test-fast test-all test-second-opinion check check-aws lab install install-runner install-terminal format lock bench clean
help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.sandbox ## a bad build rolls itself back, a good one is promoted: on the sandbox, in a minute
	$(BIN)/buddy-ops demo

test: $(VENV)/.dev ## every test, with a sample of the matrices: 8 minutes on 2 idle cores
	$(BIN)/pytest -n 4 --dist loadgroup

test-fast: $(VENV)/.dev ## the tests that need neither sandbox nor kernel
	$(BIN)/pytest -n 2 -m "not whole and not sandbox and not kernel"

test-all: $(VENV)/.dev ## the same with the matrices whole and every process started afresh: hours, each night in GitHub
	BUDDY_TESTS_FRESH=1 $(BIN)/pytest -n 2 --dist loadgroup -m "whole or not whole"

test-second-opinion: $(VENV)/.dev build/emulators/.installed ## the runbooks on other emulators of AWS, in real time: 6 minutes; needs Node
	$(BIN)/pytest -n 4 --dist worksteal tests/second_opinion

contract-aws: $(VENV)/.dev ## the contract tests on your AWS account: make contract-aws ACCOUNT=123456789012
	@test -n "$(ACCOUNT)" || { echo "Name the account: make contract-aws ACCOUNT=123456789012 AWS_PROFILE=... AWS_DEFAULT_REGION=..."; exit 2; }
	BUDDY_CONTRACT=$(ACCOUNT) $(BIN)/pytest -p no:cacheprovider --timeout 900 $(if $(ONLY),-k "$(ONLY)") sandbox/tests/contract

check: $(VENV)/.dev ## lint, format, types, imports, dependencies, template, workflows, notebooks, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry buddy_ops
	cd sandbox && ../$(BIN)/deptry src
	$(BIN)/cfn-lint infrastructure.yaml
	$(BIN)/zizmor --offline --quiet --persona auditor .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --schemafile buddy_ops/core/settings.schema.json $(filter-out %/fleet.yaml,$(wildcard parameters/*.yaml))
	$(BIN)/python -m tests.system.runbooks.clean notebooks
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html

IAM := tests/aws/iam
check-aws: $(VENV)/.dev $(VENV)/aws/.installed $(IAM)/node_modules/.package-lock.json ## infrastructure.yaml by iam-simulate, parliament and checkov; needs node and npm
	$(BIN)/python -m tests.aws.iam.check
	$(VENV)/aws/bin/python -W ignore $(IAM)/lint.py
	$(VENV)/aws/bin/checkov --skip-download --framework cloudformation --compact --quiet -f infrastructure.yaml

docs: $(VENV)/.dev ## the documentation, into docs/_build/html
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx -q -b html docs docs/_build/html

lab: $(VENV)/.lab ## JupyterLab on the notebooks, with the sandbox running live
	$(BIN)/buddy-ops lab

install: $(VENV)/.lab ## everything a person needs
install-runner: $(VENV)/.run ## what a CI runner needs to execute runbooks against AWS
install-terminal: $(VENV)/.core ## status, rollback, freeze and doctor only: 13 small packages

format: $(VENV)/.dev ## format code and notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.lab ## the figures in benchmarks/
	$(BIN)/python -m benchmarks.sandbox
	$(BIN)/python -m benchmarks.fleet
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.archive
	$(BIN)/python -m benchmarks.health
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.rollback
	$(BIN)/python -m benchmarks.install
	$(BIN)/python -m benchmarks.charts
	$(BIN)/python -m benchmarks.judge --quick

COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
BOTH := pyproject.toml sandbox/pyproject.toml requirements/build.in
lock: $(BIN)/uv ## resolve the locks in requirements/ again
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) pyproject.toml requirements/build.in -o requirements/core.txt
	$(COMPILE) pyproject.toml requirements/build.in --extra run --extra fleet -c requirements/core.txt -o requirements/run.txt
	$(COMPILE) $(BOTH) --extra run --extra fleet -c requirements/run.txt -o requirements/sandbox.txt
	$(COMPILE) $(BOTH) --extra lab --extra fleet --extra verify --extra notify --extra dev --extra docs -c requirements/sandbox.txt -o requirements/dev.txt
	$(COMPILE) $(BOTH) --extra lab --extra fleet -c requirements/dev.txt -o requirements/lab.txt
	$(COMPILE) requirements/emulators/emulators.in -o requirements/emulators/emulators.txt
	cd requirements/emulators && npm install --silent --package-lock-only --omit-lockfile-registry-resolved
	$(COMPILE) requirements/check-aws/check-aws.in -o requirements/check-aws/check-aws.txt
	cd $(IAM) && npm install --silent --package-lock-only --omit-lockfile-registry-resolved

build/emulators/.installed: requirements/emulators/emulators.txt requirements/emulators/package-lock.json | $(BIN)/uv
	$(BIN)/uv venv -q --clear --python $(BIN)/python build/emulators/python
	$(BIN)/uv pip install -q --python build/emulators/python/bin/python --require-hashes -r $<
	cp requirements/emulators/package*.json build/emulators
	cd build/emulators && npm ci --silent --ignore-scripts
	@touch $@

clean: ## remove what was built and installed
	rm -rf $(VENV) $(IAM)/node_modules build docs/_build docs/runbooks docs/reference/api .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment. On Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

INSTALL = $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode
$(VENV)/.%: requirements/%.txt pyproject.toml sandbox/pyproject.toml | $(BIN)/uv
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --no-index -e . $(if $(filter core run,$*),,-e sandbox)
	@touch $@

# checkov pins versions of its own, so it is apart from the library's environment.
$(VENV)/aws/.installed: requirements/check-aws/check-aws.txt | $(BIN)/uv
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(VENV)/aws
	$(BIN)/uv pip install -q --python $(VENV)/aws/bin/python --require-hashes -r $<
	@touch $@

$(IAM)/node_modules/.package-lock.json: $(IAM)/package-lock.json
	npm ci --silent --ignore-scripts --prefix $(IAM)
	@touch $@
