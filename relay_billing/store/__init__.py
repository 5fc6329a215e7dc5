"""Loads rows for the domain's decisions, and writes the changes. Decides nothing itself."""
