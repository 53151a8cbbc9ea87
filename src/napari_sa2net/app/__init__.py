"""Session state, requests and controllers; no Qt, no napari, no torch."""
