# Each target does its own set-up (scripts/setup.sh); a second run starts at once.
.PHONY: demo test bench lint setup
BIN := .venv/bin

demo:   ## segment real images: in napari where there is a display, else into demo-output/
	@scripts/setup.sh $(if $(DISPLAY)$(WAYLAND_DISPLAY),--qt)
	@$(BIN)/sa2net demo

test:   ## style, walls and all tests
	@scripts/setup.sh --qt
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo
	@scripts/with-display.sh $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

bench:  ## speed against the plain network, and how long the window stands still
	@scripts/setup.sh --qt
	@scripts/with-display.sh $(BIN)/python -m benchmarks

lint:   ## style, walls and types
	@scripts/setup.sh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

setup:
	@scripts/setup.sh --qt
