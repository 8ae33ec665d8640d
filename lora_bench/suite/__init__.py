"""Read a YAML file into a `Suite`."""
