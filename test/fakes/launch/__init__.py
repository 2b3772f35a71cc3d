"""As much of ROS 2's `launch` as our launch files use, for machines that have none."""


class LaunchContext:
    """The command line's words, the values of launch arguments, and the environment of what is started."""

    def __init__(self, *, argv=None):
        self.argv = list(argv or [])
        self.launch_configurations = {}
        self.environment = {}
        self.is_shutdown = False

    def _set_is_shutdown(self, state):
        self.is_shutdown = state


class LaunchDescriptionEntity:
    """Something that can be visited; gives further entities or nothing."""

    def visit(self, context):
        return None


class LaunchDescription(LaunchDescriptionEntity):
    """Entities in order."""

    def __init__(self, initial_entities=None):
        self.entities = list(initial_entities or [])

    def visit(self, context):
        return self.entities
