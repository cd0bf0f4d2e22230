"""The bundle `imagenette-vit`, as data. dlcv finds it by its name, through the entry point group `dlcv.bundles`."""
