// The pages of the xDS server.

import { start } from "./frame.js";
import { listing } from "./listing.js";
import { history, historyEntry } from "./history.js";
import { node, nodes } from "./nodes.js";
import { overview } from "./overview.js";
import { resource, snapshot, snapshots } from "./snapshots.js";
import { simulate, why } from "./questions.js";
import { world } from "./world.js";

start({
  nav: [
    ["Overview", "", "o"], ["Nodes", "nodes", "n"], ["Snapshots", "snapshots", "s"],
    ["History", "history", "h"], ["World", "world", "w"], ["Why", "why", "y"],
    ["Simulate", "simulate", "i"], ["API", "api", "a"],
  ],
  routes: [
    [[], overview], [["nodes"], nodes], [["nodes", "id"], node],
    [["snapshots"], snapshots], [["snapshots", "group"], snapshot],
    [["snapshots", "group", "type", "name"], resource],
    [["history"], history], [["history", "group", "entry"], historyEntry],
    [["world"], world], [["why"], why], [["simulate"], simulate], [["api"], listing("the same as JSON, or YAML with ?format=yaml")],
  ],
});
