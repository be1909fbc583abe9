"""Experiments: arms × seeds of a training run, compared seed by seed."""

from kvlab.web.training import experiment

experiment.page()
