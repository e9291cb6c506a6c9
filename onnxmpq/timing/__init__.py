"""What each layer takes, as an integer kernel and in float."""
