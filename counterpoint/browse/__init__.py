"""Looking through a data set with a run's eyes: filters, sorting, lists to take along, and a local page."""
