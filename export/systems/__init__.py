"""What became of each system: a run recorded from its checkpoint to the engines, and the page of all records."""
