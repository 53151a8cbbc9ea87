"""Images to probabilities to objects. Import the modules by name: some need torch."""
