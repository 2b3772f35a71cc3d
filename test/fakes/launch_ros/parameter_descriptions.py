"""The one description."""


class ParameterValue:
    """A parameter's value and the type it shall keep."""

    def __init__(self, value, *, value_type=None):
        self.value, self.value_type = value, value_type
