# The known-good set: every version is pinned in constraints.txt.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test test-all mutants gpu lint docs clean

demo: $(VENV)/.ready
	$(BIN)/softmap compare recipes/demo.yaml

test: $(VENV)/.ready
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	@# The tests begin while types are checked and native code is built, a core each.
	$(BIN)/python -m softmap.ops.native & $(BIN)/mypy & types=$$!; \
	$(BIN)/pytest -n 2 -m "not slow"; tests=$$?; \
	wait $$types || { echo "mypy failed, see above"; exit 1; }; exit $$tests

test-all: $(VENV)/.ready
	$(BIN)/pytest

# Faults planted one by one: which do the tests not find?
mutants: $(VENV)/.ready
	$(BIN)/python tests/mutants.py

# With the Python at hand, whose torch can use the GPU: make gpu PYTHON=...; else that of .venv.
gpu:
	@PYTHONPATH=src $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON)) benchmarks/gpu.py

lint: $(VENV)/.ready
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# The pages of docs/ and a reference from the docstrings, in build/site; a broken link or reference
# fails. What pages may link to lies in build/pages as in the repository.
PAGES := README.md CHANGELOG.md CONTRIBUTING.md DESIGN.md constraints.txt docs results src
docs: $(VENV)-docs/.ready
	rm -rf build/pages
	mkdir -p build/pages
	ln -s $(PAGES:%=../../%) build/pages
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet
	@echo build/site/index.html

# torch comes first and pinned: a looser first install would pull gigabytes of CUDA packages.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "softmap needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $$(grep '^torch==' constraints.txt) --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]' --constraint constraints.txt
	touch $@

# The extra docs alone: griffe reads the code without importing it, so neither torch nor softmap is needed.
$(VENV)-docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)-docs/wanted.txt
	$(VENV)-docs/bin/python -m pip install --quiet --requirement $(VENV)-docs/wanted.txt --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs build runs
