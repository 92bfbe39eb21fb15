"""What the command does with an experiment: `catalogue` to `pages`, in the order of a call."""
