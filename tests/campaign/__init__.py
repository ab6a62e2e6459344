"""The reliability campaign: whatever is damaged, killed, full or refused, one line or the right result."""
