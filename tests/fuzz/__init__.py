"""Bad input, searched for: `python -m tests.fuzz` draws inputs from seeds, and `test_fuzz.py` keeps what was found."""
