// The pages of the endpoint picker.

import { config, profiles } from "./profiles.js";
import { decision, decisions } from "./decisions.js";
import { endpoint, fleet } from "./fleet.js";
import { listing } from "./listing.js";
import { overview } from "./overview.js";
import { queues } from "./queues.js";
import { start } from "./frame.js";

start({
  nav: [
    ["Overview", "", "o"], ["Fleet", "fleet", "f"], ["Decisions", "decisions", "d"],
    ["Queues", "queues", "q"], ["Profiles", "profiles", "p"], ["Config", "config", "c"], ["API", "api", "a"],
  ],
  routes: [
    [[], overview], [["fleet"], fleet], [["fleet", "key"], endpoint],
    [["decisions"], decisions], [["decisions", "id"], decision],
    [["queues"], queues], [["profiles"], profiles], [["config"], config],
    [["api"], listing("the same as JSON")],
  ],
});
