"""Tests of what runs a compiled model."""
