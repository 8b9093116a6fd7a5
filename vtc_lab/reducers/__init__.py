"""Reduction methods: the registry, shared tensor operations, baselines, and `methods/` with one file each."""

import vtc_lab.reducers.inside_methods
import vtc_lab.reducers.methods  # noqa: F401  (registers them)
