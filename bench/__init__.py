"""Speed of the kernels against their peers, in one run: `python -m bench` from the root of the repository."""
