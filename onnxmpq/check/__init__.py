"""What can be refused before anything long has run."""
