"""The parts of the See-why page."""
