# Landmarks: `make` reproduces everything, `make test` checks everything. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := all
SCALE  ?= laptop
TORCH  ?= $(if $(shell command -v nvidia-smi),registry,cpu)
LOCK   := $(shell cat envs/lock*.txt | python3 -c 'import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
READY  := .venv/.ready-$(LOCK)-$(TORCH)
PIP    := .venv/bin/pip install -qq --disable-pip-version-check --require-hashes --no-deps -r
LAST_ERROR = $$(grep -i error $(1) | tail -n 1)
PYTHON := PYTHONPATH=. .venv/bin/python
INTEROP := .venv-interop/.ready-$(shell cat envs/interop.lock envs/lock-torch*.txt | sha256sum | cut -c 1-16)-$(TORCH)
TOOLS := .venv-tools/.ready-$(shell sha256sum envs/tools.lock | cut -c 1-16)
NAMES  := $(patsubst replications/%/rules.smk,%,$(wildcard replications/*/rules.smk))
CHOSEN  = $(if $(MODELS),--models "$(MODELS)") $(if $(filter 1,$(HUB)),--hub True)
RUN     = @$(PYTHON) -m common.engine.launch --scale $(SCALE) $(CHOSEN) $(if $(CORES),--cores $(CORES))

# $(1): the environment into which torch goes, from the index of CPU builds if it can be had there
define TORCH_INTO
{ [ $(TORCH) = cpu ] && $(subst .venv,$(1),$(PIP)) envs/lock-torch-cpu.txt 2>$(1)/pip-errors; } || \
	  { echo "Installing torch with CUDA (several GB): $(if $(filter cpu,$(TORCH)),the CPU build cannot be had ($(call LAST_ERROR,$(1)/pip-errors)); README.md says where it is,as chosen)"; \
	  $(subst .venv,$(1),$(PIP)) envs/lock-torch.txt; }
endef

$(READY):
	@echo "Installing the locked environment into .venv (one to three minutes, once) ..."
	@rm -rf .venv && python3 -c 'import sys; sys.exit("error: Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)' && python3 -m venv .venv
	@$(call TORCH_INTO,.venv)
	@$(PIP) envs/lock.txt
	@touch $@

$(INTEROP):
	@echo "Installing what SAEs are exchanged and compared with into .venv-interop (one to three minutes, once) ..."
	@rm -rf .venv-interop && python3 -m venv .venv-interop
	@$(call TORCH_INTO,.venv-interop)
	@$(subst .venv,.venv-interop,$(PIP)) envs/interop.lock
	@touch $@

$(TOOLS):
	@echo "Installing what runs notebooks and validates the crate into .venv-tools (half a minute, once) ..."
	@rm -rf .venv-tools && python3 -m venv .venv-tools
	@$(subst .venv,.venv-tools,$(PIP)) envs/tools.lock
	@touch $@

.PHONY: all resume setup smoke canary site crate notebooks calibrate freeze renew amend retire fresh figures metrics verify report paper corpora browser sample_self_chat status estimate new record pages carry dag bench profile smoke-gpu test test-interop lint schemas clean clean-env help $(NAMES)

all resume: $(READY)  ## run the whole workflow, or carry on after a kill; SCALE=smoke|laptop|full|gpu MODELS=a,b HUB=1 CORES=n
	$(RUN)

$(NAMES): $(READY)  ## run one replication alone: figures, metrics, claims
	$(RUN) $@

figures metrics verify report paper corpora browser sample_self_chat: $(READY)  ## up to this target; `browser`: a page of every autoencoder; `sample_self_chat`: the shipped conversations, made again
	$(RUN) $@

smoke: $(READY)  ## every step of every replication once, tiny, in a few minutes
	@$(PYTHON) -m common.engine.launch --scale smoke $(if $(CORES),--cores $(CORES))

calibrate: $(READY)  ## the same measurements on the calibration seeds, into results/SCALE-calibration; NAME=my_result for one replication
	$(RUN) --calibrate $(or $(NAME),verify)

freeze: $(READY)  ## seal the landmarks on their calibration, before they are scored; NAME=my_result for one replication, CLAIM=id for one landmark
	@$(PYTHON) -m common.engine.freeze freeze --scale $(SCALE) $(if $(NAME),--name "$(NAME)") $(if $(CLAIM),--claim "$(CLAIM)")

renew: $(READY)  ## NAME=my_result: seal its scored landmarks anew as they stand, for the unused seeds that config/scales/SCALE.yaml has now; CLAIM=id for one
	@$(PYTHON) -m common.engine.renewal --scale $(SCALE) --name "$(NAME)" $(if $(CLAIM),--claim "$(CLAIM)")

amend: $(READY)  ## NAME=my_result CLAIM=id WHY="...": say why a sealed landmark was changed, or retire one that is gone
	@$(PYTHON) -m common.engine.freeze amend --name "$(NAME)" --claim "$(CLAIM)" --why "$$WHY"

retire: $(READY)  ## NAME=my_result CLAIM=id WHY="...": take a landmark out of claims and record; its lock keeps the reason
	@$(PYTHON) -m common.engine.retirement --name "$(NAME)" --claim "$(CLAIM)" --why "$$WHY"

fresh: $(READY)  ## SEEDS=5,6,7: the claims on seeds never used before, compared with the scored verdicts; NAME=my_result
	@[ -n "$(strip $(SEEDS))" ] || { echo "error: SEEDS is empty; give seeds that were never used, as in SEEDS=5,6,7" >&2; exit 1; }
	$(RUN) --seeds "$(SEEDS)" $(or $(NAME),verify)

status: $(READY)  ## replications and steps: state, seconds, claims held / failed / not run
	@$(PYTHON) -m common.engine.status --scale $(SCALE) $(CHOSEN)

estimate: $(READY)  ## steps, CPU time and memory of a whole run of SCALE, as far as earlier runs are known
	@$(PYTHON) -m common.engine.estimate --scale $(SCALE)

new: $(READY)  ## NAME=my_result: a new replication that already runs, with claim, control, figure, section and test
	@$(PYTHON) -m common.engine.scaffold --name "$(NAME)"

record: $(READY)  ## keep slim records of a finished run in figures/ and renew the generated parts of the documents; SCALE=, NAME=
	@$(PYTHON) -m common.publish.record --scale $(SCALE) --name "$(NAME)"
	@$(PYTHON) -m common.engine.plan

pages: $(READY)  ## the generated parts of the documents, made anew from the records in figures/
	@$(PYTHON) -m common.publish.pages

carry: $(READY)  ## BASE=commit: records stay up to date across an edit of code that changes no value at scale smoke; NAME=
	@$(PYTHON) -m common.engine.carry --base "$(BASE)" --name "$(NAME)"

dag: $(READY)  ## draw the workflow and the floors of common/ as they are now, into docs/
	@$(PYTHON) -m common.engine.plan && $(PYTHON) -m common.publish.floors

bench: $(READY)  ## timings beside the best way of the peer, into figures/benchmarks.json; NAME=steering for one of benchmarks/
	@$(PYTHON) -m benchmarks $(NAME)

profile: $(READY)  ## what each step of a finished run took, and its critical path, into docs/performance.md and README.md; SCALE=
	@$(PYTHON) -m common.engine.profile --scale $(SCALE)

schemas: $(READY)  ## renew the JSON schemas of all YAML files, for editors
	@$(PYTHON) -m common.engine.schemas

lint: $(READY)  ## ruff, mypy, import-linter, snakefmt, snakemake --lint
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache | tail -n 3; exit $${PIPESTATUS[0]}
	@.venv/bin/snakefmt --check Snakefile $(wildcard common/engine/*.smk) $(wildcard replications/*/*.smk) 2>&1 | tail -n 1; exit $${PIPESTATUS[0]}
	@.venv/bin/python -m snakemake --lint --config scale=smoke

smoke-gpu: $(READY)  ## every step once on the GPU, or on a pretended one, whose tensors refuse what CUDA tensors refuse
	@PYTHONPATH=.:tests/pretended_gpu .venv/bin/python -m common.engine.launch --scale smoke $(if $(CORES),--cores $(CORES))

test: $(READY)  ## lint, types, unit, workflow and browser tests, two parts at a time
	@$(PYTHON) -m tests

test-interop: $(INTEROP)  ## SAEs saved here and loaded by SAELens, and the other way round, for each architecture; own environment
	@PYTHONPATH=. .venv-interop/bin/python -m pytest --noconftest -p no:cacheprovider tests/interop

canary: $(READY)  ## does this machine compute what others do? DEVICE=cpu|cuda|mps DTYPE=float32|bfloat16
	@$(PYTHON) -m common.engine.canary --device "$(or $(DEVICE),cpu)" $(if $(DTYPE),--dtype $(DTYPE))

site: $(READY)  ## static pages into results/SCALE/site; FROM=results|records REPOSITORY=<its address, for links>
	@$(PYTHON) -m common.publish.site --scale $(SCALE) --source $(or $(FROM),results) $(if $(REPOSITORY),--repository "$(REPOSITORY)")

crate: $(READY) $(TOOLS)  ## a finished run of SCALE as a Workflow Run RO-Crate, validated
	@$(PYTHON) -m common.publish.crate --scale $(SCALE)
	@.venv-tools/bin/python tools/validate_crate.py results/$(SCALE)/crate

notebooks: $(READY) $(TOOLS)  ## run replications/*/tour.ipynb; NAME=my_result for one
	@.venv-tools/bin/python tools/notebooks.py $(NAME)

setup: $(READY)  ## create .venv from the lock; every other command does this by itself

clean:  ## remove results and intermediate files of SCALE
	@[ -n "$(strip $(SCALE))" ] || { echo "error: SCALE is empty; say which results to remove, as in SCALE=smoke" >&2; exit 1; }
	rm -rf results/$(SCALE) results/$(SCALE)-calibration results/$(SCALE)-fresh-*

clean-env:  ## remove .venv; the next command installs it again
	rm -rf .venv .venv-interop .venv-tools

help:  ## this list
	@grep -hE '^[$$a-zA-Z_() -]+:.*##' $(MAKEFILE_LIST) | sed 's/^$$(NAMES)/<replication>/; s/:.*##/#/' | awk -F'#' '{printf "  make %-47s %s\n", $$1, $$2}'
	@echo "  replications: $(NAMES)"
