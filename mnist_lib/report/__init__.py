"""What a run came to: as a document for programs, as a table for people."""
