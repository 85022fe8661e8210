"""Bad input, searched for: `make fuzz` draws inputs from seeds, and `test_fuzz.py` keeps what was found."""
