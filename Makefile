# Each target does its own set-up (scripts/setup.sh); a second run starts at once.
.PHONY: demo test test-extras test-matrix bench lint docs dist setup
BIN := .venv/bin
# Else each of the many processes of the tests compiles all that it loads.
unexport PYTHONDONTWRITEBYTECODE
# In the order of their folders: files of few and long tests do not wait for the end.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

demo:   ## segment real images: in napari where there is a display, else into demo-output/
	@scripts/setup.sh $(if $(DISPLAY)$(WAYLAND_DISPLAY),--qt)
	@$(BIN)/sa2net demo

test:   ## style, walls and all tests; those of both Qt bindings with PySide6, too
	@scripts/setup.sh --qt --pyside6
	@$(BIN)/ruff check .
	$(if $(PYTEST_ARGS),,@QT_API=pyside6 PYTEST_QT_API=pyside6 scripts/with-display.sh \
		.venv-pyside6/bin/python $(PYTEST) -q -m both_bindings tests/gui)
	@scripts/with-display.sh $(BIN)/python $(PYTEST) $(PYTEST_ARGS)

test-extras: ## what is optional (dask, remote images, scanners, other engines), with it installed
	@scripts/setup.sh --qt
	@scripts/test-extras.sh

test-matrix: ## what must hold everywhere, with several napari and both Qt bindings
	@scripts/setup.sh --qt
	@scripts/test-matrix.sh

dist:   ## wheel and source archive, checked, and the wheel used in a new environment
	@scripts/setup.sh
	@scripts/check-dist.sh

bench:  ## speed against the plain network, and how long the window stands still
	@scripts/setup.sh --qt
	@scripts/with-display.sh $(BIN)/python -m benchmarks

lint:   ## style, walls and types
	@scripts/setup.sh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

docs:   ## these pages and the reference as a site in site/; warnings are errors
	@scripts/setup.sh
	@$(BIN)/zensical build --strict --config-file mkdocs.yml

setup:
	@scripts/setup.sh --qt --pyside6
