"""All that is settled before anything is compiled."""
