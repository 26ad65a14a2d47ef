"use strict";

// The page asks for /overview.json and shows it. All text is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const size = 64, cellCount = size * size;
const states = ["waiting", "running", "done", "failed"];

// Words and numbers.

const number = (n) => Math.round(n).toLocaleString("en-US");
const count = (n, one, many) => n === 1 ? "1 " + one : number(n) + " " + many;
const hex = (n) => n.toString(16).padStart(3, "0");
const two = (n) => String(n).padStart(2, "0");

function bytes(n) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
  return (unit === 0 ? n : n.toFixed(1)) + " " + units[unit];
}

function duration(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 60) return (seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)) + " s";
  const s = Math.round(seconds), days = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  if (days > 0) return days + " d " + h + " h";
  if (h > 0) return h + " h " + two(m) + " min";
  return m + " min " + two(s % 60) + " s";
}

function clock(time, now = new Date()) {
  const t = new Date(time);
  const text = two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
  if (t.toDateString() === now.toDateString()) return text;
  return t.getFullYear() + "-" + two(t.getMonth() + 1) + "-" + two(t.getDate()) + " " + text;
}

const between = (from, to) => Math.max(0, (new Date(to) - new Date(from)) / 1000);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Elements. What has not changed is left alone, so that selections and screen readers are not disturbed.

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function show(id, visible) {
  if ($(id).hidden === visible) $(id).hidden = !visible;
}

function element(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

const drawn = new Map();

// fill replaces the children of an element if what they are made of has changed.
function fill(id, from, make) {
  const key = JSON.stringify(from);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  $(id).replaceChildren(...make());
}

// table fills a table: columns are [heading, class], rows are lists of texts.
function table(id, columns, rows) {
  show(id, rows.length > 0);
  fill(id, rows, () => [
    element("thead", {}, element("tr", {}, ...columns.map(([heading, kind]) => element("th", { scope: "col", class: kind || "" }, heading)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text, i) =>
      element("td", { class: columns[i][1] || "", "data-label": columns[i][0] }, text))))),
  ]);
}

// The grid.

const cells = [];
let cellBatches = []; // of each cell, its batches
let overview = null;
let here = -1; // the cell that is looked at

function makeGrid() {
  for (let row = 0; row < size; row++) {
    const line = element("div", { role: "row", "aria-rowindex": row + 1 });
    for (let column = 0; column < size; column++) {
      const cell = element("div", { role: "gridcell", class: "cell", id: "c" + cells.length, "data-state": "waiting", "aria-colindex": column + 1 });
      cell.index = cells.length;
      cells.push(cell);
      line.append(cell);
    }
    $("grid").append(line);
  }
  const look = (event) => {
    const cell = document.elementFromPoint(event.clientX, event.clientY);
    if (cell && cell.index !== undefined) lookAt(cell.index);
  };
  $("grid").addEventListener("pointermove", look);
  $("grid").addEventListener("pointerdown", look);
  $("grid").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: size, ArrowUp: -size, PageDown: 8 * size, PageUp: -8 * size, Home: -cellCount, End: cellCount }[event.key];
    if (!step) return;
    event.preventDefault();
    lookAt(here < 0 ? 0 : Math.min(cellCount - 1, Math.max(0, here + step)));
  });
  $("grid").addEventListener("focus", () => { if (here < 0) lookAt(0); });
}

function lookAt(index) {
  if (here >= 0) cells[here].classList.remove("here");
  here = index;
  cells[here].classList.add("here");
  $("grid").setAttribute("aria-activedescendant", cells[here].id);
  tellCell();
}

// stateOf is the state of a cell, of whose batches some may be done and others not.
function stateOf(batches) {
  const has = (state) => batches.some((b) => b.state === state);
  if (has("failed")) return "failed";
  if (has("running")) return "running";
  return has("waiting") ? "waiting" : "done";
}

function drawGrid(o) {
  const replayed = o.batches.filter((b) => b.phase === "replay");
  show("grid-section", o.grid !== "");
  if (o.grid === "") return;
  cellBatches = Array.from({ length: cellCount }, () => []);
  for (const b of replayed) for (let i = b.from; i <= b.to; i++) cellBatches[i].push(b);
  cellBatches.forEach((list, i) => {
    const state = stateOf(list), partly = state === "waiting" && list.some((b) => b.state === "done");
    if (cells[i].dataset.state !== state) cells[i].dataset.state = state;
    if (cells[i].classList.contains("partly") !== partly) cells[i].classList.toggle("partly", partly);
  });
  say("grid-title", o.grid === "partitions" ? "Partitions" : "Events in the order of ids");
  say("grid-note", o.grid === "partitions"
    ? "A cell is a partition: the aggregates whose ids share their first three hex digits, from 000 to fff, row by row."
    : "A cell is about 1/4096 of the events, in the order of aggregate ids, row by row.");
  const counts = states.map((state) => [state, replayed.filter((b) => b.state === state).length]);
  fill("legend", counts, () => counts.map(([state, n]) =>
    element("li", { "data-state": state, "data-batches": n }, element("span", { class: "swatch " + state }), state + " ", element("span", { class: "dim" }, count(n, "batch", "batches")))));
  tellCell();
}

function tellCell() {
  if (!overview || overview.grid === "") return;
  const touched = here >= 0 ? cellBatches[here] : null;
  let text = "Point at a cell, or use the arrow keys, to see its batch.";
  if (touched) {
    const name = overview.grid === "partitions" ? "Partition " + hex(here) : "Cell " + (here + 1);
    text = name + ": " + (touched.length > 1 ? touched.filter((b) => b.state === "done").length + " of " + touched.length + " batches done; " : "") +
      touched.slice(0, 3).map(tellBatch).join("; ") + (touched.length > 3 ? "; …" : "");
    if (cells[here].getAttribute("aria-label") !== text) cells[here].setAttribute("aria-label", text);
  }
  say("detail", text);
  const mates = new Set(touched || []);
  cellBatches.forEach((list, i) => {
    const mate = list.some((b) => mates.has(b)) && i !== here;
    if (cells[i].classList.contains("mate") !== mate) cells[i].classList.toggle("mate", mate);
  });
}

function tellBatch(b) {
  const range = overview.grid === "partitions" ? (b.from === b.to ? hex(b.from) : hex(b.from) + " to " + hex(b.to)) : b.label;
  const parts = ["batch " + b.number + " (" + range + ") " + (b.state === "running" ? "runs" : b.state === "done" ? "is done" : b.state === "failed" ? "has failed" : "waits")];
  if (b.state === "done") {
    parts.push(count(b.events, "event", "events"), count(b.rows, "row", "rows"), duration(b.seconds));
  } else {
    parts.push("about " + count(b.events, "event", "events"));
    if (b.state === "running" && b.started) parts.push("for " + duration(b.seconds));
  }
  if (b.worker) parts.push(b.worker);
  return parts.join(", ");
}

// The rest of the page.

function drawHead(o) {
  const m = o.migration;
  say("schema", o.schema);
  say("versions", m ? (m.rollback ? "rollback of version " : "version ") + m.from + " → " + m.to : "version " + o.current);
  const failed = o.batches.some((b) => b.state === "failed");
  const phase = m && m.state === "building" ? ", phase " + m.phase : "";
  say("state", m ? m.state + phase + (failed ? ", a batch has failed" : "") : "nothing under way");
  $("state").classList.toggle("bad", failed || Boolean(m && m.changed));
  show("idle", !m);
  if (!m) {
    let text = o.current === 0 ? "Nothing is under way, and there is no version yet." : "Nothing is under way. The view schema is at version " + o.current + ".";
    if (o.target > o.current) text += " Version " + o.target + " is defined; migrate online would build it.";
    if (o.target < o.current) text += " The process that serves this page has an older definition, of version " + o.target + ".";
    say("idle", text);
  }
  const percent = share(m);
  document.title = (m ? (percent < 1 ? Math.floor(100 * percent) + "% · " : m.state + " · ") + o.schema + " " + m.from + " → " + m.to : o.schema + " " + o.current) + " · Projector";
  show("progress", Boolean(m && m.state === "building"));
  if (!m) return;
  $("bar").value = percent;
  say("percent", Math.floor(100 * percent) + "%");
  say("eta", eta(o));
}

// share counts events while there are any to replay, batches of the phase otherwise.
function share(m) {
  if (!m || m.state === "built") return 1;
  if (m.phase === "replay" && m.events > 0) return Math.min(1, m.events_done / m.events);
  return m.batches > 0 ? m.batches_done / m.batches : 1;
}

function eta(o) {
  const m = o.migration;
  if (m.phase !== "replay") return count(m.batches_done, "batch", "batches") + " of " + number(m.batches) + " of phase " + m.phase;
  if (m.left_seconds !== null) {
    return "about " + duration(m.left_seconds) + " left, until " + clock(new Date(Date.now() + 1000 * m.left_seconds));
  }
  return m.workers.length > 0 ? "how long it takes is not known yet" : "nobody is at work";
}

function drawNumbers(o) {
  const m = o.migration, list = [];
  const add = (name, text, warn = false) => list.push([name, text, warn]);
  if (m) {
    add("events", m.state === "built" ? number(m.events_done) : number(m.events_done) + " of about " + number(m.events));
    add("rows", number(m.rows));
    if (m.batches > 0) add("batches", number(m.batches_done) + " of " + number(m.batches) + " of phase " + m.phase);
    if (m.state === "building" && m.phase === "replay") add("rate", m.events_per_second > 0 ? number(m.events_per_second) + " events/s" : "–");
    if (m.lane) add("lane", "at " + number(m.lane.position) + " of " + number(m.lane.cut));
    add("ledger", count(m.ledger, "event", "events") + " above the cut at " + number(m.cut));
    if (m.state === "built") add("tail", count(m.tail, "event", "events") + " to catch up with");
    add("since", clock(m.created) + ", for " + duration(between(m.created, o.at)));
    if (m.cut_reason) add("cut began at 0", m.cut_reason);
    if (m.changed) add("changed", m.changed, true);
    if (m.throttle) add("throttle", throttle(m.throttle), m.throttle.paused);
  }
  const r = o.replication;
  let lag = "no standby";
  if (r.standbys > 0) lag = count(r.standbys, "standby", "standbys") + (r.lag_bytes === null ? ", lag not visible to this role" :
    ", " + bytes(r.lag_bytes) + (r.lag_seconds === null ? "" : ", " + duration(r.lag_seconds)) + " behind");
  add("replication", lag);
  const t = o.in_the_way;
  add("in the way", t ? (t.pid ? "pid " + t.pid : "a prepared transaction") + (t.program ? " (" + t.program + ")" : "") +
    (t.since ? ", for " + duration(between(t.since, o.at)) : "") + (t.state ? ", " + t.state : "") : "nobody");
  show("numbers-section", true);
  fill("numbers", list, () => list.flatMap(([name, text, warn]) => [element("dt", {}, name), element("dd", warn ? { class: "warn" } : {}, text)]));
}

function throttle(t) {
  const list = [];
  if (t.paused) list.push("paused");
  if (t.max_events_per_second > 0) list.push(number(t.max_events_per_second) + " events/s");
  if (t.max_lag_seconds > 0) list.push("lag up to " + duration(t.max_lag_seconds));
  if (t.max_sessions > 0) list.push(count(t.max_sessions, "active session", "active sessions"));
  if (t.max_wal_bytes_per_second > 0) list.push(bytes(t.max_wal_bytes_per_second) + "/s of WAL");
  if (t.min_free_disk_bytes > 0) list.push(bytes(t.min_free_disk_bytes) + " of disk stay free");
  return list.join(", ") || "no limit";
}

function drawChart(o) {
  const r = o.chart, has = Boolean(r && o.grid !== "" && r.buckets.length > 0);
  show("chart-section", has);
  if (!has) return;
  const peak = Math.max(...r.buckets), n = r.buckets.length, width = 600 / n;
  let path = "M0 100";
  r.buckets.forEach((rate, i) => {
    const y = (peak > 0 ? 100 - 100 * rate / peak : 100).toFixed(1);
    path += "L" + (i * width).toFixed(1) + " " + y + "L" + ((i + 1) * width).toFixed(1) + " " + y;
  });
  $("area").setAttribute("d", path + "L600 100Z");
  const mean = r.buckets.reduce((a, b) => a + b, 0) / n;
  const to = new Date(new Date(r.from).getTime() + 1000 * n * r.bucket_seconds);
  say("peak", number(peak) + " at most");
  say("chart-from", clock(r.from));
  say("chart-mean", number(mean) + " on average, a step is " + duration(r.bucket_seconds));
  say("chart-to", clock(to));
  $("chart").setAttribute("aria-label", "Events per second from " + clock(r.from) + " to " + clock(to) + ": " + number(peak) + " at most, " + number(mean) + " on average");
}

function drawSteps(o) {
  const steps = o.batches.filter((b) => b.phase !== "replay");
  show("steps-section", steps.length > 0);
  const key = steps.map((b) => [b.phase, b.label, b.state, b.state === "waiting" ? "" : duration(b.seconds)]);
  fill("steps", key, () => key.map(([phase, label, state, took]) => element("li", { "data-state": state },
    element("span", { class: "swatch " + state }), phase + " " + label + ": " + state + (took ? ", " + took : ""))));
}

function drawTables(o) {
  const m = o.migration;
  const atWork = o.runs.filter((r) => r.outcome === "working"), failed = o.runs.filter((r) => r.outcome === "failed").slice(0, 5);
  show("work-section", atWork.length > 0 || Boolean(m && m.workers.length > 0));
  table("work", [["command"], ["program"], ["host"], ["pid", "number"], ["since", "time"], ["events", "number"], ["", "hold"]], atWork.map((r) =>
    [r.command, r.program, r.host, r.pid ? String(r.pid) : "", clock(r.started), number(r.events), r.holding ? "holds back: " + r.holding : ""]));
  table("workers", [["doing"], ["session"], ["pid on the server", "number"], ["host"], ["pid", "number"], ["since", "time"], ["", "bad"]], (m ? m.workers : []).map((w) =>
    [w.doing, w.program || "no application name", String(w.pid), w.host, w.host_pid ? String(w.host_pid) : "", w.since ? clock(w.since) : "not visible",
      w.state === "lost" ? "lost: no sign of it since " + clock(w.seen) : ""]));
  show("errors-section", failed.length > 0);
  table("errors", [["when", "time"], ["command"], ["error", "bad"]], failed.map((r) => [clock(r.ended || r.seen), r.command, r.failed || "see the log of the command"]));
  show("parked-section", o.parked.length > 0);
  table("parked", [["aggregate"], ["version", "number"], ["event", "number"], ["type"], ["projector"]], o.parked.map((p) =>
    [p.aggregate_id, String(p.version), number(p.position), p.event_type, p.projector || "cannot be decoded"]));
  show("tables-section", o.tables.length > 0);
  table("tables", [["table"], ["now", "time"], ["size", "number"]], o.tables.map((t) => [t.table, t.role, bytes(t.bytes)]));
  const last = o.runs.slice(0, 10);
  show("runs-section", last.length > 0);
  table("runs", [["when", "time"], ["command"], ["versions", "time"], ["outcome"], ["took", "number"], ["events", "number"], ["rows", "number"], ["by"]], last.map((r) =>
    [clock(r.started), r.command, r.from + " → " + r.to, r.outcome === "silent" ? "silent since " + clock(r.seen) : r.outcome,
      duration(between(r.started, r.ended || r.seen)), number(r.events), number(r.rows), [r.program, r.host].filter(Boolean).join(" on ")]));
}

function draw(o) {
  overview = o;
  drawHead(o);
  drawGrid(o);
  drawNumbers(o);
  drawChart(o);
  drawSteps(o);
  drawTables(o);
  $("at").dateTime = o.at;
  say("at", clock(o.at));
  show("main", true);
}

// Asking, each second; less often while nobody looks, and while nobody answers.

let lost = null, tries = 0, timer = 0, asking = false;

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const response = await fetch("overview.json", { cache: "no-store", signal: AbortSignal.timeout(30000) });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    draw(answer);
    lost = null;
    tries = 0;
  } catch (error) {
    lost = lost || new Date();
    tries++;
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "the connection is lost" : "no news from the database: " + error.message;
    say("connection", capital(why) + ", since " + clock(lost) + "; trying again.");
  }
  show("connection", lost !== null);
  document.body.classList.toggle("lost", lost !== null);
  asking = false;
  timer = setTimeout(ask, document.hidden ? 15000 : Math.min(5000, 1000 * Math.max(1, tries)));
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
makeGrid();
ask();
