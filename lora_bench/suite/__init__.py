"""From YAML to a `Suite`."""
