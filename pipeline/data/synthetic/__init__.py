"""Generated signs with exact masks."""
