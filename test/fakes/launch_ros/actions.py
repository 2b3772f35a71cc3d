"""The one action."""

from launch import LaunchDescriptionEntity


class Node(LaunchDescriptionEntity):
    """A process of a ROS 2 package; refuses arguments that the real one does not know."""

    def __init__(
        self,
        *,
        executable,
        package=None,
        name=None,
        namespace=None,
        parameters=None,
        remappings=None,
        output="log",
        additional_env=None,
        on_exit=None,
    ):
        self.executable, self.package, self.name, self.namespace = executable, package, name, namespace
        self.parameters, self.remappings, self.output = parameters, remappings, output
        self.additional_env, self.on_exit = additional_env, on_exit
