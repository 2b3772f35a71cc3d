"""`python -m vla_ros` is `vla-ros`."""

from vla_ros.cli import main

if __name__ == "__main__":
    main()
