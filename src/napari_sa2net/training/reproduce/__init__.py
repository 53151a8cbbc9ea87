"""The papers' own experiments, trained and scored again by their published recipe."""
