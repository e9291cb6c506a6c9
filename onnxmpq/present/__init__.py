"""What a person reads of a compile: the table, the progress, the verdict."""
