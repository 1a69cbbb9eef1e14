"""`python -m mbert`, for torchrun."""

from mbert.cli import main

if __name__ == "__main__":
    main()
