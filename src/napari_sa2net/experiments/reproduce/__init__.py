"""The papers' own experiments, trained and scored again by their recipes, or by ours."""
