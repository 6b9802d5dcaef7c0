"""Tests of the architectures, their loading and the training data; tiny random models, no server."""
