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
        respawn=False,
        respawn_delay=0.0,
        on_exit=None,
    ):
        self.executable, self.package, self.name, self.namespace = executable, package, name, namespace
        self.parameters, self.remappings, self.output = parameters, remappings, output
        self.respawn, self.respawn_delay, self.on_exit = respawn, respawn_delay, on_exit
