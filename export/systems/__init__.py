"""Records of trained systems, from checkpoint to engines, and the page that lists them."""
