# make demo, test, lint: each sets up .venv first if it has to. make PYTHON=python3.12 chooses the interpreter of a new
# .venv; make clean removes what make has made.

PYTHON ?= python3
# PyTorch only writes the reference's checkpoints, so a build without CUDA will do; PyPI's for Linux has
# gigabytes of it. Without PyTorch (make TORCH=), the tests that need it are skipped.
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The retired runtime of 32-bit Raspberry Pi, and what else a device needs, for the tests that run exported models on it.
OLD_RUNTIME := tflite-runtime==2.14.0 'numpy==1.26.*' 'opencv-python-headless>=4.9' 'pydantic>=2.8' 'pyyaml>=6' 'tqdm>=4.66'
MODEL := demo/model/last.keras

.PHONY: test test-fast lint demo fuzz clean

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# What needs no network that is built, trained, exported or served: about a minute.
test-fast: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: $(STAMP)
	$(BIN)/dekr data synthetic --output demo/data
	$(BIN)/dekr train --config configs/synthetic_small.yaml --output demo/model --resume
	$(BIN)/dekr evaluate --model $(MODEL) --annotations demo/data/val.json --images demo/data/val/images
	$(BIN)/dekr predict demo/data/val/images --model $(MODEL) --output demo/poses.json --draw demo/pictures
	@echo "The poses are in demo/poses.json, the pictures in demo/pictures."

# FUZZ_SECONDS for each of what is fuzzed.
FUZZ_SECONDS ?= 60
fuzz: $(STAMP)
	$(PIP) atheris
	$(BIN)/python fuzz/fuzz_serving.py answers $(FUZZ_SECONDS)
	$(BIN)/python fuzz/fuzz_serving.py images $(FUZZ_SECONDS)
	$(BIN)/python fuzz/fuzz_checkpoints.py $(FUZZ_SECONDS)

clean:
	rm -rf .venv demo build dist dekr_tf.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or newer is needed as $(PYTHON): make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv module; on Debian: sudo apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps tensorflow-serving-api
	@test -z '$(TORCH)' || $(PIP) '$(TORCH)' 2>/dev/null || $(PIP) --extra-index-url $(TORCH_INDEX) '$(TORCH)' || \
		echo "note: no PyTorch without CUDA to be had ($(TORCH)); the tests that need it are skipped"
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(BIN)/python -m venv .venv/tflite-runtime && \
		.venv/tflite-runtime/bin/python -m pip --disable-pip-version-check install --quiet $(OLD_RUNTIME); \
	else \
		echo "note: tflite-runtime needs Python 3.11 or older; the test that runs it is skipped"; fi
	@touch $@
