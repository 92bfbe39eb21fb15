"""Plans carried out over time and kept on disk."""
