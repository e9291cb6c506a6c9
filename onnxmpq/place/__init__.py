"""Where Q/DQ pairs go, and what options that leaves each layer."""
