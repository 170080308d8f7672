"""Tests of the package `trainables`, a file for each of its modules."""
