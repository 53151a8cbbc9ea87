"""``python -m napari_sa2net.cli``, where the script is not on the path."""

from napari_sa2net.cli import main

main()
