// What a cluster applies and denies, as it comes. Everything that is received is inserted as text.
"use strict";
(() => {
  const PERIOD = 1000;
  const LIMIT = 60000;
  const KEPT = 1000;
  const SHOWN = 300;
  const NODES_NAMED = 3;

  const state = { status: null, seen: { status: 0, denials: 0 }, denials: [], total: 0, failures: [] };
  const $ = (id) => document.getElementById(id);
  const make = (tag, style, ...children) => {
    const element = document.createElement(tag);
    if (style) element.className = style;
    element.append(...children.filter((child) => child !== ""));
    return element;
  };
  const filter = () => $("filter").value.trim().toLowerCase();
  const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  // A table of the rows that match the filter. A row is a list of [style, text] pairs.
  const table = (place, head, rows, nothing) => {
    const wanted = filter();
    const has = (row) => row.map(([, text]) => text).join(" ").toLowerCase().includes(wanted);
    const found = rows.filter(has);
    if (found.length === 0) {
      $(place).replaceChildren(make("p", "hint", rows.length === 0 ? nothing : "Nothing here matches the filter."));
      return;
    }
    const body = make("tbody", "");
    for (const row of found.slice(0, SHOWN)) {
      body.append(make("tr", "", ...row.map(([style, text]) => make("td", style, text))));
    }
    const titles = make("thead", "", make("tr", "", ...head.map((title) => make("th", "", title))));
    $(place).replaceChildren(make("table", "", titles, body));
    if (found.length > SHOWN) {
      $(place).append(make("p", "hint", `and ${found.length - SHOWN} more; filter to see them`));
    }
  };

  // ---- what is applied ----------------------------------------------------------------------
  const isApplied = (policy) => policy.nodesApplied === policy.nodesConcerned;
  const waiting = (policy) => {
    const lagging = policy.nodes.filter((node) => node.status !== "Applied");
    const named = lagging.slice(0, NODES_NAMED).map((node) => `${node.node}: ${node.message}`);
    const more = lagging.length - named.length;
    if (policy.podsUnscheduled > 0) named.push(`${count(policy.podsUnscheduled, "pod has", "pods have")} no node yet`);
    return named.join("; ") + (more > 0 ? `; and ${count(more, "more node", "more nodes")}` : "");
  };
  const drawStatus = () => {
    const { status } = state;
    if (!status) return;
    const nodes = status.nodes.map((node) => {
      const style = node.state === "Enforcing" ? "good" : node.state && node.state !== "Auditing" ? "bad" : "maybe";
      return [["word", node.node], [`word ${style}`, node.state || "Unknown"], ["", node.message]];
    });
    table("nodes", ["node", "state", "message"], nodes, "The cluster has no nodes.");
    const order = (policy) => (isApplied(policy) ? 1 : 0);
    const policies = [...status.policies].sort((a, b) => order(a) - order(b)).map((policy) => {
      const style = isApplied(policy) ? "good" : policy.nodes.some((node) => node.status === "NotEnforcing") ? "bad" : "maybe";
      const name = policy.isAudit ? `${policy.policy} (audit)` : policy.policy;
      return [
        ["", name], ["word", String(policy.generation ?? "unknown")],
        [`word ${style}`, `${policy.nodesApplied}/${policy.nodesConcerned}`], ["", waiting(policy)],
      ];
    });
    table("policies", ["policy", "generation", "nodes", "waiting for"], policies, "The cluster has no policies.");
    const applied = status.policies.filter(isApplied).length;
    const enforcing = status.nodes.filter((node) => node.state === "Enforcing").length;
    $("headline").textContent = `${applied} of ${count(status.policies.length, "policy", "policies")} applied on all nodes of their pods; `
      + `${enforcing} of ${count(status.nodes.length, "node", "nodes")} Enforcing`;
  };

  // ---- what is denied -----------------------------------------------------------------------
  const packets = (record) => {
    if (record.seconds === undefined) return String(record.count);
    return `${record.count} in ${record.seconds} s`;
  };
  const drawDenials = () => {
    const rows = [...state.denials].reverse().map((record) => [
      ["word", (record.time || "").replace("T", " ").split(/[.Z]/)[0]],
      [`word ${record.verdict === "Denied" ? "bad" : "maybe"}`, record.verdict],
      ["word", record.node || ""],
      ["", `${record.source || "(not named)"} → ${record.destination || "(not named)"}`],
      ["word", [record.port, record.protocol].filter((part) => part !== undefined).join("/")],
      ["word", packets(record)],
      ["", [record.direction, record.why].filter((part) => part).join(": ")],
    ]);
    table("denials", ["time (UTC)", "verdict", "node", "connection", "port", "packets", "why"], rows, "No agent has logged a denial.");
    const left = state.total > KEPT ? `, the last ${KEPT} of ${state.total}` : state.total > 0 ? ` (${state.total})` : "";
    $("denials-title").textContent = `Denials${left}`;
    $("failures").replaceChildren(...state.failures.map(({ time, message }) => make("p", "", `${time} ${message}`)));
  };

  // ---- news ---------------------------------------------------------------------------------
  const problem = (text) => {
    $("problem").hidden = text === "";
    $("problem").textContent = text;
  };
  const take = (news) => {
    state.seen = { status: news.statusNumber, denials: news.denialsTotal };
    if (news.status) {
      state.status = news.status;
      drawStatus();
    }
    const failures = JSON.stringify(news.failures);
    if (news.denials.length > 0 || failures !== JSON.stringify(state.failures) || state.total !== news.denialsTotal) {
      state.denials = state.denials.concat(news.denials).slice(-KEPT);
      [state.total, state.failures] = [news.denialsTotal, news.failures];
      drawDenials();
    }
    $("about").textContent = news.cluster + (news.statusTime ? `, read at ${news.statusTime}` : "");
    const partly = state.status ? state.status.diagnostics : [];
    const failed = news.statusFailure ? [`The cluster cannot be read, and what is shown may be old: ${news.statusFailure}`] : [];
    problem([...failed, ...partly].join("; "));
  };
  const ask = async () => {
    try {
      const { status, denials } = state.seen;
      const answer = await fetch(`news?status=${status}&denials=${denials}`, { signal: AbortSignal.timeout(LIMIT) });
      if (!answer.ok) throw new Error(await answer.text());
      take(await answer.json());
      document.documentElement.dataset.read = state.status ? "yes" : "no";
    } catch (error) {
      problem(`kubectl whatif ui does not answer, and what is shown is old: ${error.message}`);
    }
    setTimeout(ask, PERIOD);
  };

  // ---- the map ------------------------------------------------------------------------------
  const readMap = () => {
    const frame = make("iframe", "");
    frame.title = "Who reaches whom";
    frame.src = "map";
    for (const old of $("map").querySelectorAll("iframe")) old.remove();
    $("map").append(frame);
    $("map").hidden = false;
  };
  $("show-map").addEventListener("click", readMap);
  $("read-map").addEventListener("click", readMap);
  $("hide-map").addEventListener("click", () => { $("map").hidden = true; });
  $("filter").value = location.hash.slice(1);
  $("filter").addEventListener("input", () => { drawStatus(); drawDenials(); });
  drawDenials();
  ask();
  document.documentElement.dataset.ready = "yes";
})();
