"""The paper's experiments as one command: suites, what runs them, and the report."""
