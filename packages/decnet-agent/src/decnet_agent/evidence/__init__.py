"""From what deckies print and the tap sees to lines of the worker's event log."""
