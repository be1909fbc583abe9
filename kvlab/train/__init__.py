"""Training runs: frozen teachers, projected into the student's space, whose keys and values the student learns."""
