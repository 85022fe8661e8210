"""Bad input, searched for: `PYTHONPATH=tests python -m fuzz` draws inputs from seeds, and `test_fuzz.py` keeps what was found."""
