"""What each option of each layer costs, or a way through the plans."""
