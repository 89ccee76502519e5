# Landmarks: `make` reproduces everything, `make test` checks everything. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := all
SCALE ?= laptop
TORCH ?= $(if $(shell command -v nvidia-smi),registry,cpu)
LOCK  := $(shell cat envs/lock*.txt | python3 -c 'import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
READY := .venv/.ready-$(LOCK)-$(TORCH)
PIP   := .venv/bin/pip install -qq --disable-pip-version-check --require-hashes --no-deps -r

$(READY):
	@echo "Installing the locked environment into .venv (one to three minutes, once) ..."
	@rm -rf .venv && python3 -m venv .venv
	@{ [ $(TORCH) = cpu ] && $(PIP) envs/lock-torch-cpu.txt 2>/dev/null; } || $(PIP) envs/lock-torch.txt
	@$(PIP) envs/lock.txt
	@touch $@

setup: $(READY)  ## create .venv from the lock (every other command does this by itself)
