"""Tests of the engine directory."""
