"""The one room that knows Docker."""
