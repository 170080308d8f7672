"""One file a method: its vectors, its equation as a plain loop, its properties."""
