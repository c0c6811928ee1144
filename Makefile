# make demo, demo-train, test, test-web, test-arm, lint, docs: each sets up .venv first if necessary.
# make PYTHON=python3.12 chooses the interpreter of a new .venv; make clean removes everything that make created.

PYTHON ?= python3
# We need PyTorch only to write the reference's checkpoints and to test training on it, so a build without CUDA will do;
# PyPI's build for Linux has gigabytes of CUDA. Without PyTorch (make TORCH=), tests that need it are skipped.
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# The retired runtime of 32-bit Raspberry Pi with the other packages of a device, for the tests that run exports on it.
OLD_RUNTIME := tflite-runtime==2.14.0 'numpy==1.26.*' 'opencv-python-headless>=4.9' 'pydantic>=2.8' 'pyyaml>=6' 'tqdm>=4.66'
# A server for the test of docs/examples/kserve_server.py. The second pin spares pip the download of newer versions, which
# need a newer protobuf than KServe takes.
KSERVE := 'kserve==0.21.*' 'grpcio-tools==1.81.*'
KSERVE_STAMP := .venv/kserve/.installed
MODEL := demo/model/last.keras

.PHONY: test test-fast test-web test-arm lint docs demo demo-train fuzz clean

test: $(STAMP) $(KSERVE_STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# What needs no network that is built, trained, exported or served: about a minute.
test-fast: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "not slow"

# The JavaScript, and the page in Chromium. Screenshots come to lie in build/web.
test-web: $(STAMP)
	@for program in node npm chromium; do command -v $$program >/dev/null || { \
		echo "note: $$program is missing; skipping the tests of the page (on Debian: apt install nodejs npm chromium)"; \
		exit 0; }; done; \
	set -e; export DEKR_TF_CACHE=$(CURDIR)/build/web_cache PYTHON=$(abspath $(BIN))/python; \
	export WEB_TEST_DATA=$(CURDIR)/build/web CHROMIUM=$$(command -v chromium); \
	rm -rf $$WEB_TEST_DATA; $$PYTHON web/tests/prepare.py $$WEB_TEST_DATA; \
	cd web; npm ci --ignore-scripts --no-audit --no-fund --loglevel=error; npm test

# The device tier on emulated ARM, in minutes; make ARM=armv7l test-arm chooses one of the two.
ARM ?= aarch64 armv7l
test-arm: $(STAMP)
	PYTHON=$(abspath $(BIN))/python tests/arm/run.sh $(ARM)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# A link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict
	@echo "The site is in site/; $(BIN)/mkdocs serve shows it."

# Finds people in photos, with the model of the package.
demo: $(STAMP)
	$(BIN)/dekr predict docs/photos --output demo/poses.json --draw demo/pictures
	@echo "Look at the pictures in demo/pictures; the poses are in demo/poses.json."
	@echo "Next: $(BIN)/dekr predict YOUR_PHOTOS --draw drawn/; training on your data, docs/own_keypoints.md."

# The whole chain on drawn people.
demo-train: $(STAMP)
	$(BIN)/dekr data synthetic --output demo/data
	$(BIN)/dekr train --config configs/synthetic_small.yaml --output demo/model --resume
	$(BIN)/dekr evaluate --model $(MODEL) --annotations demo/data/val.json --images demo/data/val/images
	$(BIN)/dekr predict demo/data/val/images --model $(MODEL) --output demo/drawn_people.json --draw demo/drawn_people
	@echo "Look at the pictures in demo/drawn_people; the poses are in demo/drawn_people.json, the model is $(MODEL)."
	@echo "Next: training on your data, docs/own_keypoints.md."

# Seconds per fuzzed part.
FUZZ_SECONDS ?= 60
fuzz: $(STAMP)
	$(PIP) atheris
	$(BIN)/python fuzz/fuzz_serving.py answers $(FUZZ_SECONDS)
	$(BIN)/python fuzz/fuzz_serving.py images $(FUZZ_SECONDS)
	$(BIN)/python fuzz/fuzz_checkpoints.py $(FUZZ_SECONDS)

clean:
	rm -rf .venv demo site build web/node_modules dist dekr_tf.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) must be Python 3.10 or newer; choose another one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no venv module; on Debian: sudo apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps tensorflow-serving-api
	@test -z '$(TORCH)' || $(PIP) '$(TORCH)' 2>/dev/null || $(PIP) --extra-index-url $(TORCH_INDEX) '$(TORCH)' || \
		echo "note: could not install PyTorch without CUDA ($(TORCH)); skipping the tests that need it"
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(BIN)/python -m venv .venv/tflite-runtime && \
		.venv/tflite-runtime/bin/python -m pip --disable-pip-version-check install --quiet $(OLD_RUNTIME); \
	else \
		echo "note: tflite-runtime needs Python 3.11 or older; skipping the test that runs it"; fi
	@touch $@

# KServe takes an older protobuf than we do, so it lives in an environment of its own, which finds TensorFlow in .venv.
$(KSERVE_STAMP): $(STAMP)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))'; then \
		set -e; $(BIN)/python -m venv .venv/kserve; \
		packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(abspath $(BIN))/python -c "$$packages" > "$$(.venv/kserve/bin/python -c "$$packages")/parent.pth"; \
		.venv/kserve/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-warn-conflicts \
			$(KSERVE); \
	else \
		mkdir -p .venv/kserve; echo "note: KServe needs Python 3.13 or older; skipping the test that runs it"; fi
	@touch $@
