"""Images where they lie, in arrays, files and encoded bytes: only what is looked at is read."""
