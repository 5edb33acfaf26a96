# Needs Python 3.11 or newer; everything else is installed into .venv by the targets themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench hostile transcribe-extra clean stack-up stack-down stack-status chaos outage help

help:
	@echo "make demo    ten sample calls through the whole path, on this machine, nothing before it"
	@echo "make test    checks and tests; real Kafka, S3 and ClickHouse where they can be had"
	@echo "make check   ruff and mypy only"
	@echo "make transcribe-extra   WhisperX, FunASR and torch, 8 GB: with them their tests run too"
	@echo "make bench   the figures of docs/benchmarks.md"
	@echo "make stack-up, stack-status, stack-down   Kafka, S3, ClickHouse and a schema registry on this machine"
	@echo "make hostile AUDIO=10000 AVRO=1000000   mutated recordings and messages; SEED repeats one"
	@echo "make chaos   kills, pauses and broken links while calls pass: CALLS=500 KILLS=10 SEED="
	@echo "make outage  one dependency down for SECONDS=600: DEPENDENCY=broker, s3 or clickhouse"
	@echo "make clean   remove the environment, caches and the demo's data"

demo: $(VENV)/.core
	@$(BIN)/callstream demo

# The extras of engines take 8 GB: CI tests them always, elsewhere whoever has them.
test: check $(if $(filter true,$(CI)),$(VENV)/.transcribe)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m schemas.generate --check

bench: $(VENV)/.dev
	@for file in path codec log sink enrich replay rules alerts kafka; do echo "== $$file"; $(BIN)/python -m benchmarks.$$file || exit 1; done

stack-up stack-down stack-status: $(VENV)/.dev
	@$(BIN)/python -m stack $(@:stack-%=%)

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos --calls $(or $(CALLS),500) --kills $(or $(KILLS),10) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

outage: $(VENV)/.dev
	@for it in $(or $(DEPENDENCY),broker s3 clickhouse); do $(BIN)/python -m tests.chaos.outage --dependency $$it --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (once)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing with the development tools into $(VENV) (once)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.core $@

transcribe-extra: $(VENV)/.transcribe

$(VENV)/.transcribe: $(VENV)/.dev pyproject.toml constraints.txt
	@echo "installing WhisperX, FunASR and torch into $(VENV) (8 GB, once)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[transcribe,sensevoice,eval]'
	@# Of its wheel the weights are used alone; what it depends on needs a compiler.
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps Resemblyzer==0.1.4
	@touch $@

hostile: $(VENV)/.dev
	@$(BIN)/python -m tests.hostile --audio $(or $(AUDIO),10000) --avro $(or $(AVRO),1000000) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

clean:
	rm -rf $(VENV) .cache .callstream .mypy_cache .pytest_cache .ruff_cache .hypothesis
