"""Plans near the allocated one, judged by the network as a whole."""
