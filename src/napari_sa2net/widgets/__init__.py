"""The dock: pages, small panels and the one module that touches napari layers."""
