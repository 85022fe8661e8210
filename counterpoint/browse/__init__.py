"""Browsing a data set's clips with a run's answers: filters, sorting, exported lists, and a local page."""
