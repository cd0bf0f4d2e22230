"""A small bundle that tests open by its name, `cifar10-vit`, as if a package had brought it."""
