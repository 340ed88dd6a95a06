# make demo   sets everything up and drives a model from real images to a verdict and a report
# make test   sets everything up and passes the tests
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all check bench system picture clean

demo: $(VENV)/demo
	$(BIN)/drivetrain run examples/digits/drive.toml
	@echo "Open runs/digits/report.html in a browser."

test: $(VENV)/test system
	$(BIN)/python -m pytest -q

test-all: $(VENV)/test system
	$(BIN)/python -m pytest -q -m ""

check: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test
	for file in benchmarks/[0-9]*.py; do $(BIN)/python $$file || exit 1; done

# Debian packages that some tests need; without root those tests skip, and this prints the line that installs them.
system:
	@$(PYTHON) tools/system_packages.py

picture: $(VENV)/test
	$(BIN)/python tools/draw_architecture.py

clean:
	rm -rf $(VENV) runs build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e ".[drive,examples]"
	@touch $@

$(VENV)/test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e ".[test,check]"
	@touch $@
