"""Train a student on the keys and values of frozen teachers, projected into its space."""
