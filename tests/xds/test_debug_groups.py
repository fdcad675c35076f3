"""Who belongs where, when it becomes known only later."""

from __future__ import annotations

from tests.xds.envoy import until
from tests.xds.scripted_node import ScriptedNode
from tests.xds.worlds import pool, world
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.status import SnapshotStatus, State


class Silent:
    """A source that says nothing: the test hands over Worlds itself."""

    async def worlds(self):
        return
        yield


def _newest(control: ControlPlane) -> SnapshotStatus:
    (default,) = [group for group in control.status().groups if group.name == "default"]
    return default.history[0]


async def test_a_node_that_came_before_the_first_world_is_counted_where_it_belongs_after_it():
    control = ControlPlane(
        Silent(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=0)
    )
    await control.start()
    try:
        async with ScriptedNode(control.port, "early"):
            await until(lambda: bool(control.status().nodes), "the node is known")
            assert control.status().nodes[0].group == "none"
            control.take(world(pool("llama")))
            await until(lambda: control.status().nodes[0].state is State.SYNCED, "it is served")
            (node,) = control.status().nodes
            assert node.group == "default"
            groups = {group.name: group for group in control.status().groups}
            await until(lambda: "early" in _newest(control).acked, "it has acknowledged all of it")
            assert groups["default"].nodes == 1
            assert groups["none"].nodes == 0
            assert not groups["none"].history
    finally:
        await control.stop(0)
