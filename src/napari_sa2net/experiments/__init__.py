"""Published protocols and studies; only the shell imports them."""
