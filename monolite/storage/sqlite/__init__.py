"""SQLite: one file, one writer, many readers, and who may checkpoint."""
