"""Tests of the search system."""
