"""The actions."""

from launch import LaunchDescriptionEntity


class DeclareLaunchArgument(LaunchDescriptionEntity):
    """Gives an argument its default, unless it has a value."""

    def __init__(self, name, *, default_value=None, description=None):
        self.name, self.default_value, self.description = name, default_value, description

    def visit(self, context):
        context.launch_configurations.setdefault(self.name, self.default_value)


class OpaqueFunction(LaunchDescriptionEntity):
    """Calls a function that gives entities."""

    def __init__(self, *, function):
        self.function = function

    def visit(self, context):
        return self.function(context)


class Shutdown(LaunchDescriptionEntity):
    """Ends everything that was launched."""

    def __init__(self, *, reason="reason not given"):
        self.reason = reason


class SetEnvironmentVariable(LaunchDescriptionEntity):
    """Sets a variable for everything that starts later."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def visit(self, context):
        context.environment[self.name] = self.value


class LogInfo(LaunchDescriptionEntity):
    """Tells the user something."""

    def __init__(self, *, msg):
        self.msg = msg


class TimerAction(LaunchDescriptionEntity):
    """Gives further entities after a while."""

    def __init__(self, *, period, actions):
        self.period, self.actions = period, actions
