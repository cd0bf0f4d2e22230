"""Pictures of a run for a report; each file has one function from data to figure."""
