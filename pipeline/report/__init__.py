"""Reports of a run: tables for queries, a picture sheet and a page for eyes."""
