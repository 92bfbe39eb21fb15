"""The nets, one file for each family of them."""
