"""The program of one device: clients, rounds and runs in loops, pure throughout."""
