"""What the metrics share: their declaration, the form that `evaluate` gives them, and the libraries under them."""
