"""The networks and images of the tests of inference."""

from tests.inference.conftest import make_model, make_network, nuclei

__all__ = ["make_model", "make_network", "nuclei"]
