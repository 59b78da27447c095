# `make` alone lists what there is. The work is done by the scripts in setup/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
UV ?= $(or $(wildcard .venv/bin/uv),uv)
# Tests that need no root, no daemon and no time.
FAST := tests/unit tests/property

.PHONY: help setup demo demo-clean test check format bench lock install uninstall clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make this checkout ready to run (root; idempotent; offline afterwards)
	@setup/setup.sh setup

demo: setup  ## one image, once as a container and once as a VM
	@$(PY) setup/demo.py

demo-clean:  ## remove everything that the demo made
	@$(PY) setup/demo.py --clean

test: setup  ## every test (root)
	@setup/test-packages.sh
	@# Two workers and emulated guests crowd a small machine: what fails among others must pass alone, or the run fails.
	$(PY) -m pytest -n 2 --dist loadgroup $(ARGS) || $(PY) -m pytest --last-failed --last-failed-no-failures none $(ARGS)

check:  ## formatting, lint, types, layers, unit and property tests; in seconds, without root
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m pytest -q -n auto $(FAST)
	@# Whatever else there is to test can at least be imported.
	$(PY) -m pytest -q --collect-only >/dev/null || $(PY) -m pytest -q --collect-only

format:  ## put all Python files into the house format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: setup  ## measure against docker, podman and bare crun (an hour; ARGS="--only http --rounds 5" for a part)
	$(PY) -m bench $(ARGS)

lock:  ## lock the Python dependencies again (needs uv)
	$(UV) pip compile -q --upgrade --generate-hashes --universal --no-header --no-emit-index-url --python-version 3.11 \
	    --extra compare pyproject.toml -o requirements.txt
	$(UV) pip compile -q --generate-hashes --universal --no-header --no-emit-index-url --python-version 3.11 \
	    --extra compare --extra dev -c requirements.txt pyproject.toml setup/build.in -o requirements-dev.txt

install: setup  ## start the daemon now and at every boot (systemd)
	install -m 644 packaging/sysusers.conf /usr/lib/sysusers.d/twinhull.conf
	systemd-sysusers twinhull.conf
	sed 's|@TWINHULL@|$(CURDIR)/.venv/bin/twinhull|' packaging/twinhull.service >/etc/systemd/system/twinhull.service
	systemctl daemon-reload
	systemctl enable --now twinhull.service

uninstall:  ## undo `make install` and the command's link; state under /var/lib/twinhull stays
	-systemctl disable --now twinhull.service
	rm -f /etc/systemd/system/twinhull.service /usr/lib/sysusers.d/twinhull.conf
	[ "$$(readlink /usr/local/bin/twinhull)" != "$(CURDIR)/.venv/bin/twinhull" ] || rm /usr/local/bin/twinhull

clean:  ## remove what setup built in this folder
	rm -rf build .venv
