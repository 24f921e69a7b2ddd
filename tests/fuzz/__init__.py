"""Fuzzing: `make fuzz`; see `__main__`."""
