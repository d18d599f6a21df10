"""Commands killed at random moments."""
