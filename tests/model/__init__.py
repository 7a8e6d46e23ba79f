"""Tests of what a checkpoint says about itself."""
